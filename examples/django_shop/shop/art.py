"""Pictures of the goods: flat SVG drawings, one per kind of thing, painted in its colour.

A shop of your own has photographs. These need no network and no files: a product names
its drawing ("tents-1"), a page draws it as a short SVG text, and shop.css says what its classes look like in daylight
and in the dark: c the product's colour, d darker, l lighter, w white, k ink, n night,
m metal, o wood, g leaves, y light; a letter and "-" is the same colour as a line.
"""

# ruff: noqa: E501

from __future__ import annotations

from html import escape

from shop.catalogue import CATEGORIES, Product

_SHADOW = '<ellipse class="s" cx="100" cy="168" rx="{}" ry="5"/>'

_BODIES: dict[str, tuple[str, str, str]] = {
    "tents": (
        '<path class="k-" d="M100 50V40" stroke-width="3"/>'
        '<path class="c" d="M100 48 174 166H26Z"/><path class="d" d="M100 48 174 166H126Z"/>'
        '<path class="n" d="M100 82 126 166H74Z"/><path class="l" d="M100 82 74 166H58Q86 128 100 82Z"/>'
        '<path class="w-" d="M26 166 14 170M174 166l12 4" stroke-width="2"/>',
        '<path class="c" d="M24 166C26 100 58 60 100 60s74 40 76 106Z"/>'
        '<path class="d" d="M118 62c36 8 56 50 58 104h-42c0-44-4-80-16-104Z"/>'
        '<path class="n" d="M70 166c0-38 12-58 28-58s28 20 28 58Z"/>'
        '<path class="l" d="M70 166c0-38 12-58 28-58-8 14-12 34-12 58Z"/>'
        '<path class="w-" d="M24 166C50 104 76 74 100 60M118 62c-30 14-52 40-66 104" stroke-width="2" opacity=".55"/>',
        '<path class="o-" d="M92 28l20 36M108 28 88 64" stroke-width="3.5"/>'
        '<path class="c" d="M100 44 158 166H42Z"/><path class="d" d="M100 44 158 166H122Z"/>'
        '<path class="l" d="M84 78h32l7 15H77Z"/>'
        '<path class="n" d="M100 104 118 166H82Z"/><path class="w" d="M100 104 82 166H74Z"/>',
    ),
    "backpacks": (
        '<path class="k-" d="M82 52c0-22 36-22 36 0" stroke-width="6"/>'
        '<rect class="d" x="46" y="104" width="16" height="46" rx="8"/><rect class="d" x="138" y="104" width="16" height="46" rx="8"/>'
        '<rect class="c" x="56" y="48" width="88" height="118" rx="28"/>'
        '<path class="l" d="M56 84V76a28 28 0 0 1 28-28h32a28 28 0 0 1 28 28v8Z"/>'
        '<rect class="d" x="68" y="108" width="64" height="46" rx="12"/><path class="l-" d="M76 120h48" stroke-width="3"/>'
        '<rect class="o" x="95" y="78" width="10" height="20" rx="3"/>',
        '<rect class="c" x="58" y="62" width="84" height="104" rx="16"/>'
        '<rect class="d" x="54" y="44" width="92" height="26" rx="12"/><path class="l-" d="M64 57h72" stroke-width="3"/>'
        '<path class="k-" d="M74 66v98M126 66v98" stroke-width="6"/>'
        '<rect class="m" x="69" y="92" width="10" height="12" rx="2"/><rect class="m" x="121" y="92" width="10" height="12" rx="2"/>'
        '<rect class="l" x="86" y="120" width="28" height="34" rx="6"/>',
        '<path class="k-" d="M84 44c0-18 32-18 32 0" stroke-width="6"/>'
        '<rect class="l" x="52" y="30" width="96" height="20" rx="10"/><circle class="d" cx="54" cy="40" r="10"/><circle class="d" cx="146" cy="40" r="10"/>'
        '<rect class="c" x="60" y="46" width="80" height="120" rx="20"/>'
        '<path class="d" d="M60 66a20 20 0 0 1 20-20h40a20 20 0 0 1 20 20v20q-40 18-80 0Z"/>'
        '<rect class="d" x="70" y="116" width="60" height="40" rx="10"/><path class="o-" d="M100 84v24M84 128h32" stroke-width="5"/>',
    ),
    "lanterns": (
        '<path class="k-" d="M70 76c0-52 60-52 60 0" stroke-width="4"/>'
        '<path class="c" d="M78 60h44l10 18H68Z"/><rect class="y" x="72" y="78" width="56" height="62" rx="6"/>'
        '<path class="w" d="M100 92c14 18 12 34 0 38-12-4-14-20 0-38Z"/>'
        '<path class="d-" d="M84 78v62M116 78v62" stroke-width="3"/><rect class="c" x="62" y="138" width="76" height="28" rx="8"/><circle class="l" cx="100" cy="152" r="6"/>',
        '<path class="k-" d="M58 100c0-82 84-82 84 0" stroke-width="4"/>'
        '<path class="c" d="M86 44h28l6 18H80Z"/><path class="d" d="M74 62h52l6 12H68Z"/>'
        '<path class="y" d="M76 74h48q18 30 0 58H76q-18-28 0-58Z"/><path class="w" d="M100 88c12 16 11 32 0 36-11-4-12-20 0-36Z"/>'
        '<path class="c" d="M66 132h68l8 34H58Z"/><path class="l" d="M70 132h14l-8 34H58Z"/>',
        '<path class="k-" d="M80 46c0-18 40-18 40 0" stroke-width="5"/>'
        '<rect class="c" x="66" y="44" width="68" height="26" rx="13"/><rect class="y" x="70" y="64" width="60" height="70" rx="4"/>'
        '<path class="w-" d="M70 82h60M70 100h60M70 118h60" stroke-width="2.5" opacity=".8"/>'
        '<rect class="d" x="62" y="130" width="76" height="36" rx="14"/><circle class="l" cx="100" cy="148" r="8"/>',
    ),
    "flasks": (
        '<rect class="m" x="84" y="34" width="32" height="26" rx="6"/><path class="k-" d="M90 34c0-14 20-14 20 0" stroke-width="4"/>'
        '<path class="c" d="M84 60h32c10 8 14 16 14 28v68q0 10-10 10H80q-10 0-10-10V88c0-12 4-20 14-28Z"/>'
        '<path class="l" d="M82 88q0-14 8-22v94h-2q-6 0-6-8Z" opacity=".7"/><rect class="d" x="70" y="128" width="60" height="12"/>',
        '<rect class="k" x="86" y="38" width="28" height="18" rx="5"/><circle class="k-" cx="100" cy="32" r="8" stroke-width="4"/>'
        '<path class="c" d="M88 56h24q18 8 18 28v70q0 12-12 12H82q-12 0-12-12V84q0-20 18-28Z"/>'
        '<path class="w-" d="M70 104l60-14M70 116l60-14" stroke-width="3" opacity=".8"/><path class="l" d="M78 84q0-12 8-18v20l-8 4Z"/>',
        '<rect class="o" x="74" y="40" width="52" height="22" rx="7"/><rect class="m" x="78" y="60" width="44" height="8"/>'
        '<rect class="c" x="68" y="66" width="64" height="100" rx="14"/><rect class="l" x="76" y="74" width="8" height="84" rx="4" opacity=".7"/>'
        '<path class="w" d="M104 106l14 22H90Z" opacity=".85"/>',
    ),
    "mugs": (
        '<path class="steam" d="M84 64c-6-10 6-14 0-24M104 64c-6-10 6-14 0-24"/>'
        '<path class="c-" d="M130 92h10c24 0 24 44-6 44h-8" stroke-width="11"/>'
        '<path class="c" d="M56 76h80v62q0 28-28 28H84q-28 0-28-28Z"/><ellipse class="d" cx="96" cy="77" rx="40" ry="7"/>'
        '<path class="w" d="M56 112h80v12H56Z" opacity=".75"/>',
        '<path class="steam" d="M88 60c-6-10 6-14 0-24M106 60c-6-10 6-14 0-24"/>'
        '<path class="c-" d="M134 92c30-4 30 44 0 42" stroke-width="8"/>'
        '<path class="c" d="M58 74h78l-4 84q-1 8-9 8H71q-8 0-9-8Z"/><ellipse class="k" cx="97" cy="74" rx="39" ry="6"/>'
        '<g class="w" opacity=".8"><circle cx="76" cy="98" r="3"/><circle cx="98" cy="108" r="3"/><circle cx="118" cy="98" r="3"/><circle cx="84" cy="126" r="3"/><circle cx="110" cy="132" r="3"/><circle cx="94" cy="148" r="3"/></g>',
        '<ellipse class="l" cx="96" cy="160" rx="66" ry="9"/><path class="steam" d="M88 76c-6-10 6-14 0-24M106 76c-6-10 6-14 0-24"/>'
        '<path class="c-" d="M128 104c24-2 22 30-4 30" stroke-width="8"/><path class="c" d="M62 90h68q2 66-22 66H84q-24 0-22-66Z"/>'
        '<ellipse class="o" cx="96" cy="91" rx="34" ry="7"/><path class="l" d="M70 100q0 36 12 48h6q-10-20-8-48Z" opacity=".6"/>',
    ),
    "kettles": (
        '<path class="k-" d="M136 88c36-6 40 34 30 56" stroke-width="8"/><path class="c-" d="M72 144C40 140 58 84 34 78" stroke-width="7"/>'
        '<path class="c" d="M78 76h48l20 90H58Z"/><path class="l" d="M82 76h12L80 166H62Z" opacity=".55"/>'
        '<path class="d" d="M74 76c4-14 52-14 56 0Z"/><circle class="o" cx="102" cy="60" r="7"/>',
        '<path class="k-" d="M62 88c0-64 84-64 84 0" stroke-width="7"/><path class="c" d="M142 118l38-26 6 8-36 38Z"/>'
        '<path class="c" d="M54 92q50-18 100 0 14 40-4 74H58q-18-34-4-74Z"/><path class="d" d="M50 132h108q0 18-8 34H58q-8-16-8-34Z"/>'
        '<path class="l" d="M70 84c20-12 48-12 68 0Z"/><circle class="o" cx="104" cy="72" r="7"/>',
        '<rect class="k" x="52" y="156" width="100" height="10" rx="4"/><path class="k-" d="M62 74c-34 0-34 66 0 72" stroke-width="9"/>'
        '<path class="c" d="M70 62h62l14 94H58Z"/><path class="d" d="M132 62l22 4-16 26Z"/><path class="l" d="M78 62h12l-6 94H66Z" opacity=".55"/>'
        '<path class="k" d="M68 62c2-10 62-10 64 0Z"/><rect class="w" x="96" y="104" width="8" height="36" rx="4" opacity=".8"/>',
    ),
    "grinders": (
        '<path class="k-" d="M100 54V40h46" stroke-width="5"/><circle class="o" cx="150" cy="34" r="11"/>'
        '<path class="m" d="M74 74c0-28 52-28 52 0Z"/><rect class="c" x="72" y="74" width="56" height="54" rx="6"/>'
        '<path class="o" d="M66 126h68l6 40H60Z"/><circle class="k" cx="100" cy="148" r="5"/><rect class="l" x="80" y="80" width="8" height="42" rx="4" opacity=".7"/>',
        '<path class="m-" d="M100 50V38h40" stroke-width="5"/><circle class="k" cx="142" cy="34" r="9"/>'
        '<rect class="m" x="78" y="50" width="44" height="12" rx="5"/><rect class="c" x="76" y="60" width="48" height="62" rx="6"/>'
        '<rect class="d" x="80" y="120" width="40" height="46" rx="8"/><path class="l-" d="M80 132h40M80 142h40" stroke-width="2"/><path class="l" d="M82 64h9v54h-9Z" opacity=".6"/>',
        '<path class="d" d="M64 44h72l-14 36H78Z"/><path class="w" d="M72 50h56l-4 10H76Z" opacity=".5"/>'
        '<rect class="c" x="66" y="78" width="68" height="56" rx="8"/><circle class="k" cx="100" cy="106" r="13"/><path class="w-" d="M100 106l7-8" stroke-width="3"/>'
        '<rect class="o" x="58" y="132" width="84" height="34" rx="6"/><path class="k-" d="M84 149h32" stroke-width="4"/>',
    ),
    "teapots": (
        '<path class="c-" d="M60 100c-40-10-34 54 8 46" stroke-width="9"/><path class="c" d="M132 138c24-4 20-40 44-52l6 10c-18 14-14 44-36 58Z"/>'
        '<ellipse class="c" cx="100" cy="122" rx="54" ry="44"/><path class="d" d="M62 91c14-18 62-18 76 0-20 8-56 8-76 0Z"/><circle class="o" cx="100" cy="72" r="8"/>'
        '<path class="w" d="M48 128q52 18 104 0l-3 12q-49 16-98 0Z" opacity=".7"/>',
        '<path class="k-" d="M54 96c4-66 88-66 92 0" stroke-width="6"/><path class="c" d="M140 120l34-18 6 8-32 34Z"/>'
        '<path class="c" d="M46 98h108q10 42-16 68H62q-26-26-16-68Z"/><path class="d" d="M54 98c6-16 86-16 92 0Z"/><circle class="k" cx="100" cy="80" r="7"/>'
        '<g class="l"><circle cx="62" cy="118" r="3"/><circle cx="80" cy="118" r="3"/><circle cx="98" cy="118" r="3"/><circle cx="116" cy="118" r="3"/><circle cx="134" cy="118" r="3"/><circle cx="71" cy="132" r="3"/><circle cx="89" cy="132" r="3"/><circle cx="107" cy="132" r="3"/><circle cx="125" cy="132" r="3"/></g>',
        '<path class="c-" d="M62 92c-36 0-32 56 4 56" stroke-width="8"/><path class="c" d="M128 140l44-52 8 6-36 66Z"/>'
        '<path class="c" d="M66 78h68l14 74q2 14-12 14H64q-14 0-12-14Z"/><path class="w" d="M70 104h60l8 44H62Z" opacity=".35"/>'
        '<path class="o" d="M66 78c2-14 66-14 68 0Z"/><circle class="k" cx="100" cy="62" r="6"/>',
    ),
    "lamps": (
        '<path class="beam" d="M104 84l66 82H78Z"/><rect class="k" x="42" y="158" width="60" height="8" rx="4"/>'
        '<path class="m-" d="M70 158 54 98 104 54" stroke-width="5"/><circle class="k" cx="54" cy="98" r="6"/>'
        '<path class="c" d="M96 40l36 28q-8 20-30 26L78 74q2-22 18-34Z"/><path class="y" d="M132 68q-8 20-30 26l-12-10Z" opacity=".9"/>',
        '<path class="beam" d="M64 92h84l22 74H42Z"/><rect class="c" x="70" y="156" width="64" height="10" rx="5"/><path class="o-" d="M102 156V70" stroke-width="6"/>'
        '<path class="c" d="M76 40h54l22 52H54Z"/><path class="l" d="M80 40h12L72 92H58Z" opacity=".6"/><ellipse class="y" cx="103" cy="92" rx="48" ry="6"/>',
        '<path class="beam" d="M70 94l50 72H28Z"/><rect class="k" x="128" y="138" width="22" height="28" rx="4"/><path class="k-" d="M120 160h34" stroke-width="5"/>'
        '<path class="c-" d="M138 138V90L96 52" stroke-width="6"/><circle class="k" cx="138" cy="90" r="6"/>'
        '<path class="c" d="M68 52a34 34 0 0 1 58 34L48 104a34 34 0 0 1 20-52Z" transform="rotate(8 90 76)"/><path class="y" d="M50 100l70-22q-2 12-8 20Z" opacity=".9"/>',
    ),
    "notebooks": (
        '<rect class="w" x="66" y="44" width="84" height="120" rx="6"/><rect class="c" x="58" y="40" width="84" height="126" rx="8"/><rect class="d" x="58" y="40" width="16" height="126" rx="6"/>'
        '<path class="l-" d="M126 40v126" stroke-width="5"/><rect class="w" x="84" y="66" width="32" height="20" rx="3" opacity=".85"/>',
        '<rect class="w" x="64" y="58" width="92" height="104" rx="4" transform="rotate(8 110 110)"/><g transform="rotate(-6 100 104)"><rect class="c" x="54" y="42" width="92" height="120" rx="6"/><path class="d" d="M54 48q0-6 6-6h8v120h-8q-6 0-6-6Z"/>'
        '<path class="l-" d="M82 72h48M82 84h32" stroke-width="4"/></g><path class="o-" d="M112 160v14" stroke-width="6"/>',
        '<rect class="o" x="52" y="46" width="100" height="120" rx="4"/><rect class="w" x="56" y="42" width="94" height="116" rx="4"/><rect class="c" x="52" y="40" width="96" height="30" rx="4"/>'
        '<g class="m-" stroke-width="3"><path d="M64 34v14M80 34v14M96 34v14M112 34v14M128 34v14M140 34v14"/></g><path class="c-" d="M70 128c14-34 26-6 36-22s20-2 26 6" stroke-width="4"/>',
    ),
    "pencils": (
        '<g><path class="o" d="M76 96V44l6-12 6 12v52Z"/><path class="k" d="M79 38l3-6 3 6Z"/><path class="l" d="M94 96V36l6-12 6 12v60Z"/><path class="k" d="M97 30l3-6 3 6Z"/><path class="y" d="M114 96V52l6-12 6 12v44Z"/><path class="k" d="M117 46l3-6 3 6Z"/></g>'
        '<path class="c" d="M64 92h72l-6 66q-1 8-9 8H79q-8 0-9-8Z"/><ellipse class="d" cx="100" cy="92" rx="36" ry="6"/><path class="w" d="M67 120h66l-1 10H68Z" opacity=".6"/>',
        '<rect class="o" x="40" y="126" width="120" height="40" rx="8"/><g transform="translate(0 4)"><path class="c" d="M54 122V56l8-16 8 16v66Z"/><path class="w" d="M58 48l4-8 4 8Z"/><path class="l" d="M76 122V56l8-16 8 16v66Z"/><path class="w" d="M80 48l4-8 4 8Z"/><path class="d" d="M98 122V56l8-16 8 16v66Z"/><path class="w" d="M102 48l4-8 4 8Z"/><path class="y" d="M120 122V56l8-16 8 16v66Z"/><path class="w" d="M124 48l4-8 4 8Z"/></g><path class="k-" d="M56 146h88" stroke-width="3" opacity=".35"/>',
        '<g transform="rotate(-24 100 100)"><rect class="c" x="62" y="36" width="14" height="96" rx="5"/><path class="k" d="M64 132h10l-5 20Z"/><rect class="d" x="62" y="60" width="14" height="8"/></g><g transform="rotate(4 100 100)"><rect class="l" x="94" y="34" width="14" height="98" rx="5"/><path class="k" d="M96 132h10l-5 22Z"/><rect class="c" x="94" y="58" width="14" height="8"/></g><g transform="rotate(30 100 100)"><rect class="d" x="126" y="38" width="14" height="96" rx="5"/><path class="k" d="M128 134h10l-5 20Z"/><rect class="l" x="126" y="62" width="14" height="8"/></g>',
    ),
    "headphones": (
        '<path class="k-" d="M52 118c-6-92 102-92 96 0" stroke-width="9"/><rect class="c" x="40" y="102" width="34" height="60" rx="16"/><rect class="c" x="126" y="102" width="34" height="60" rx="16"/>'
        '<rect class="d" x="66" y="108" width="14" height="48" rx="7"/><rect class="d" x="120" y="108" width="14" height="48" rx="7"/><path class="l-" d="M50 116v30" stroke-width="4"/>',
        '<path class="c-" d="M50 116c-4-86 104-86 100 0" stroke-width="13"/><path class="w-" d="M66 72c14-22 54-22 68 0" stroke-width="3" opacity=".6"/>'
        '<ellipse class="k" cx="58" cy="132" rx="22" ry="32"/><ellipse class="k" cx="142" cy="132" rx="22" ry="32"/><ellipse class="c" cx="54" cy="132" rx="14" ry="24"/><ellipse class="c" cx="146" cy="132" rx="14" ry="24"/>',
        '<path class="m-" d="M54 116c-4-90 96-90 92 0" stroke-width="6"/><path class="c-" d="M68 62c16-18 48-18 64 0" stroke-width="12"/>'
        '<circle class="c" cx="58" cy="134" r="28"/><circle class="c" cx="142" cy="134" r="28"/><circle class="o" cx="58" cy="134" r="15"/><circle class="o" cx="142" cy="134" r="15"/><circle class="l" cx="58" cy="134" r="5"/><circle class="l" cx="142" cy="134" r="5"/>',
    ),
    "houseplants": (
        '<path class="g-" d="M100 124V44" stroke-width="4"/><g class="g"><path d="M100 110C66 108 52 88 50 66c28 0 46 14 50 44ZM100 104c34-2 46-24 48-46-28 2-46 16-48 46Z"/><path class="g2" d="M100 78C80 74 70 58 72 38c20 4 30 18 28 40ZM100 70c18-6 26-20 22-40-18 6-24 20-22 40Z"/></g>'
        '<path class="c" d="M68 120h64l-8 40q-1 6-8 6H84q-7 0-8-6Z"/><rect class="d" x="64" y="114" width="72" height="14" rx="5"/>',
        '<g class="g"><path d="M92 126C76 96 78 60 84 34c14 26 18 60 16 92ZM106 126c-4-40 4-66 22-86 4 32 0 62-12 86Z"/><path class="g2" d="M84 126C62 104 54 82 52 58c20 16 34 40 40 68ZM114 126c6-28 18-44 36-56-2 24-10 42-24 56Z"/></g>'
        '<path class="c" d="M66 122h68v26q0 18-18 18H84q-18 0-18-18Z"/><path class="w" d="M66 138l8-8 9 8 8-8 9 8 8-8 9 8 8-8 9 8v8H66Z" opacity=".6"/>',
        '<g class="g-" stroke-width="4"><path d="M98 124C96 96 84 80 70 74M102 124c2-36 14-52 34-60M100 124V60"/></g><g class="g"><path d="M38 72c4-24 36-28 48-4-6 22-34 26-48 4Z"/><path d="M116 66c0-26 34-36 50-14-4 24-34 34-50 14Z"/><path class="g2" d="M80 44c4-24 36-24 44 0-8 20-34 22-44 0Z"/></g><g class="paper-" stroke-width="3"><path d="M50 62l10 8M52 84l10-8M140 42l2 12M150 70l-10-6M92 34l6 10M112 34l-6 10"/></g>'
        '<path class="c" d="M64 118h72l-10 42q-2 6-8 6H82q-6 0-8-6Z"/><path class="d" d="M64 118h72l-3 12H67Z"/>',
    ),
    "watering": (
        '<path class="c-" d="M132 92c40-14 44 56 2 56" stroke-width="8"/><path class="c" d="M74 136 30 84l10-8 42 40Z"/><path class="d" d="M22 86l22-20 4 6-20 20Z"/>'
        '<path class="c" d="M72 92h66l6 66q0 8-8 8H74q-8 0-8-8Z"/><ellipse class="d" cx="105" cy="92" rx="33" ry="7"/><path class="l-" d="M69 126h72" stroke-width="4"/>',
        '<path class="k-" d="M104 92c-6-46 62-52 52 20" stroke-width="6"/><path class="c-" d="M86 150C52 140 60 66 24 58" stroke-width="7"/>'
        '<path class="c" d="M82 98h70l8 60q0 8-8 8H82q-8 0-8-8Z"/><ellipse class="d" cx="117" cy="98" rx="35" ry="7"/><path class="l" d="M86 106h10l-2 56h-10q-4 0-4-4Z" opacity=".6"/>',
        '<path class="o-" d="M76 88c4-46 60-46 62 0" stroke-width="7"/><path class="c-" d="M136 146c34-6 18-66 46-74" stroke-width="6"/>'
        '<circle class="c" cx="106" cy="126" r="40"/><path class="d" d="M78 97q28-12 56 0-28 14-56 0Z"/><path class="w" d="M68 134q38 16 76 0l-3 12q-35 14-70 0Z" opacity=".55"/>',
    ),
    "vases": (
        '<path class="g-" d="M100 76C98 56 102 44 108 30" stroke-width="3"/><g class="g"><path d="M102 56c-14 0-20-8-22-18 14 0 22 6 22 18ZM104 48c10-2 18-10 18-20-12 2-18 8-18 20Z"/></g><circle class="y" cx="110" cy="26" r="9"/>'
        '<path class="c" d="M92 74h16c0 22 24 30 24 58 0 22-14 34-32 34s-32-12-32-34c0-28 24-36 24-58Z"/><path class="l" d="M80 122c2-14 12-22 16-32 2 24-8 34-6 66-8-6-12-18-10-34Z" opacity=".6"/>',
        '<g class="g-" stroke-width="3"><path d="M98 78C92 54 86 42 74 30M102 78c2-24 10-38 24-46M100 78V26"/></g><g class="l"><circle cx="72" cy="30" r="8"/><circle cx="128" cy="32" r="8"/><circle cx="100" cy="22" r="9"/></g><g class="y"><circle cx="72" cy="30" r="3"/><circle cx="128" cy="32" r="3"/><circle cx="100" cy="22" r="3.5"/></g>'
        '<path class="c" d="M82 76h36l-4 22 12 52q3 16-12 16H86q-15 0-12-16l12-52Z"/><path class="w" d="M88 110h24l4 18H84Z" opacity=".6"/>',
        '<g class="g-" stroke-width="3"><path d="M96 84c-10-20-22-30-38-34M104 84c6-26 18-38 36-42"/></g><g class="g"><path d="M76 58c-6-12-18-16-30-14 4 12 14 18 30 14ZM84 68c0-14-6-22-16-28-4 12 2 22 16 28ZM124 54c-2-12 4-22 16-28 4 14-2 24-16 28ZM114 64c14 4 26 0 34-12-14-4-26 0-34 12Z"/></g>'
        '<path class="c" d="M88 82h24q2 8 12 14c20 14 24 34 14 54q-8 16-24 16H86q-16 0-24-16c-10-20-6-40 14-54q10-6 12-14Z"/><g class="d-" stroke-width="3"><path d="M60 124q40 14 80 0M60 136q40 14 80 0"/></g>',
    ),
    "terrariums": (
        '<rect class="glass" x="56" y="62" width="88" height="104" rx="22"/><path class="o" d="M78 44h44l4 20H74Z"/><g class="g"><path d="M100 138c-20-6-30-22-28-42 18 6 30 20 28 42ZM102 134c0-22 8-36 26-44 2 22-6 38-26 44Z"/><path class="g2" d="M100 132c-8-20-6-34 2-50 8 16 8 32-2 50Z"/></g>'
        '<path class="c" d="M57 136q43-14 86 0v8q0 22-22 22H79q-22 0-22-22Z"/><path class="w-" d="M68 84v34" stroke-width="4" opacity=".7"/>',
        '<path class="glass" d="M100 46c44 0 66 34 60 76-4 28-24 44-60 44s-56-16-60-44c-6-42 16-76 60-76Z"/><ellipse class="g2" cx="74" cy="124" rx="26" ry="18"/><ellipse class="g" cx="116" cy="120" rx="30" ry="22"/><circle class="w" cx="96" cy="132" r="8"/>'
        '<path class="c" d="M42 130q58-14 116 0c-8 24-26 36-58 36s-50-12-58-36Z"/><path class="w-" d="M62 84c6-12 14-18 24-22" stroke-width="4" opacity=".7"/>',
        '<path class="glass" d="M100 40l50 40v86H50V80Z"/><g class="g-" stroke-width="4"><path d="M100 142c0-30-10-44-28-54M100 142c0-34 10-50 28-58M100 142V72"/></g><g class="g2-" stroke-width="3"><path d="M100 104l-12-10M100 104l12-10M100 90l-10-8M100 90l10-8M84 104l-12 2M118 102l12 2"/></g>'
        '<path class="d" d="M50 138h100v28H50Z"/><path class="c-" d="M100 40l50 40v86H50V80ZM50 80h100M100 40v40" stroke-width="4"/>',
    ),
    "pans": (
        '<path class="k-" d="M128 128 176 176" stroke-width="13" transform="translate(0 -12)"/><circle class="c" cx="88" cy="104" r="56"/><circle class="d" cx="88" cy="104" r="45"/><path class="l-" d="M58 92c6-16 18-24 34-24" stroke-width="5" opacity=".7"/>',
        '<rect class="o" x="130" y="108" width="60" height="12" rx="6"/><path class="c" d="M18 104h124l-8 46q-2 12-14 12H40q-12 0-14-12Z"/><path class="l" d="M26 112h12l6 44h-6q-6 0-7-8Z" opacity=".6"/><path class="d" d="M14 98h132q4 0 4 5t-4 5H14q-4 0-4-5t4-5Z"/><path class="steam" d="M62 82c-6-10 6-14 0-24M84 82c-6-10 6-14 0-24"/>',
        '<path class="c" d="M92 138l10-2 8 36q1 6-5 7h-4q-6 0-6-7Z"/><circle class="c" cx="96" cy="92" r="54"/><circle class="k" cx="96" cy="92" r="43"/><circle class="w" cx="88" cy="92" r="22"/><circle class="y" cx="90" cy="90" r="10"/><path class="c" d="M146 72l14-4v14ZM46 72l-14-4v14Z"/>',
    ),
    "knives": (
        '<g transform="rotate(38 100 100)"><path class="m" d="M20 92h96v26C70 118 36 110 20 92Z"/><path class="w" d="M20 92h96v5H26Z" opacity=".7"/><rect class="k" x="114" y="90" width="10" height="28" rx="2"/><path class="c" d="M124 92h56q8 0 8 8v4q0 10-10 10h-54Z"/><g class="l"><circle cx="138" cy="103" r="3"/><circle cx="156" cy="103" r="3"/><circle cx="174" cy="103" r="3"/></g></g>',
        '<g transform="rotate(-42 100 100)"><path class="m" d="M40 98q30-16 68-12v22q-40 4-68-10Z"/><rect class="d" x="106" y="84" width="8" height="26" rx="2"/><rect class="c" x="114" y="86" width="60" height="22" rx="10"/><path class="l-" d="M124 94h36" stroke-width="3"/></g>',
        '<g transform="rotate(38 100 100)"><path class="m" d="M12 90h106v22l-7-4-7 4-7-4-7 4-7-4-7 4-7-4-7 4-7-4-7 4-7-4-7 4-7-4-7 2q-9-8-9-16Z"/><rect class="k" x="116" y="88" width="8" height="24" rx="2"/><path class="c" d="M124 88h52q14 0 14 12t-14 12h-52Z"/><g class="o"><circle cx="140" cy="100" r="3.5"/><circle cx="164" cy="100" r="3.5"/></g></g>',
    ),
    "bowls": (
        '<path class="c" d="M28 92h144q0 74-56 74H84q-56 0-56-74Z"/><ellipse class="d" cx="100" cy="92" rx="72" ry="13"/><ellipse class="w" cx="100" cy="94" rx="60" ry="8" opacity=".25"/><path class="w" d="M34 116h132l-4 13H38Z" opacity=".7"/>',
        '<path class="o" d="M150 84 176 40q6-4 8 2l-22 46Z"/><g class="g"><circle cx="80" cy="84" r="16"/><circle class="g2" cx="104" cy="78" r="17"/><circle cx="126" cy="86" r="13"/></g><circle class="y" cx="92" cy="82" r="8"/><path class="c" d="M32 90h136q-2 66-46 68v8H78v-8q-44-2-46-68Z"/><path class="l" d="M42 98q4 38 28 50-14-24-14-50Z" opacity=".6"/>',
        '<path class="o-" d="M120 84 172 30M130 86 184 40" stroke-width="5"/><ellipse class="d" cx="100" cy="90" rx="66" ry="12"/><path class="y-" d="M52 88q10-10 20 0t20 0 20 0 20 0" stroke-width="4"/><path class="c" d="M34 90q66 20 132 0-2 50-36 66l-4 10H74l-4-10q-34-16-36-66Z"/><path class="w-" d="M44 120q56 20 112 0" stroke-width="4" opacity=".75"/>',
    ),
    "boards": (
        '<rect class="o" x="52" y="34" width="96" height="132" rx="14"/><g class="o2-" stroke-width="3"><path d="M74 60v90M100 76v76M126 56v94"/></g><circle class="paper" cx="100" cy="52" r="8"/><rect class="c" x="52" y="140" width="96" height="26" rx="10"/>',
        '<g transform="rotate(-14 100 100)"><path class="o" d="M90 20h20q8 0 8 8v34q24 6 24 30v54q0 26-26 26H84q-26 0-26-26V92q0-24 24-30V28q0-8 8-8Z"/><g class="o2-" stroke-width="3"><path d="M80 92v60M100 82v78M120 92v60"/></g><circle class="paper" cx="100" cy="34" r="6"/><path class="c-" d="M100 34c10-20 30-16 30 2" stroke-width="4"/></g>',
        '<path class="o" d="M26 104h148q10 0 10 10v30q0 12-12 12H28q-12 0-12-12v-30q0-10 10-10Z"/><path class="o2-" d="M30 124h140M30 138h140" stroke-width="3"/><rect class="c" x="34" y="154" width="24" height="12" rx="4"/><rect class="c" x="142" y="154" width="24" height="12" rx="4"/><path class="y" d="M56 104c-6-44 88-48 92 0Z"/><path class="w-" d="M82 82l8 12M102 78l8 14M122 82l6 10" stroke-width="4"/>',
    ),
    "bicycles": (
        '<g class="k-" stroke-width="6"><circle cx="48" cy="132" r="32"/><circle cx="152" cy="132" r="32"/></g><g class="m-" stroke-width="1.5"><path d="M48 100v64M16 132h64M152 100v64M120 132h64"/></g><path class="c-" d="M48 132 78 82h56l-36 50H48M78 82l20 50M134 82l18 50" stroke-width="6"/><path class="c-" d="M134 82l-6-18" stroke-width="6"/><path class="o-" d="M112 62h22M64 72h26" stroke-width="8"/><path class="k-" d="M78 82l-3-10" stroke-width="5"/><circle class="k" cx="98" cy="132" r="7"/>',
        '<g class="k-" stroke-width="8"><circle cx="48" cy="132" r="31"/><circle cx="152" cy="132" r="31"/></g><path class="c-" d="M48 132 74 84l62-6-38 54H48M74 84l24 48M136 78l16 54" stroke-width="6"/><path class="c-" d="M136 78l-4-14" stroke-width="6"/><path class="k-" d="M124 64h18q12 0 10 16M60 70h26M74 84l-3-12" stroke-width="6"/><circle class="m" cx="98" cy="132" r="9"/><circle class="k" cx="98" cy="132" r="4"/>',
        '<rect class="d" x="22" y="88" width="34" height="36" rx="6"/><g class="k-" stroke-width="6"><circle cx="48" cy="132" r="32"/><circle cx="152" cy="132" r="32"/></g><path class="m-" d="M28 88h44" stroke-width="4"/><path class="c-" d="M48 132 80 80h54l-36 52H48M80 80l18 52M134 80l18 52M134 80l-6-20" stroke-width="6"/><path class="k-" d="M66 70h26M80 80l-2-8" stroke-width="6"/><path class="o-" d="M120 58h16q10 4 4 14" stroke-width="6"/><path class="l-" d="M118 100a34 34 0 0 1 60 14M14 114a34 34 0 0 1 56-12" stroke-width="4"/><circle class="k" cx="98" cy="132" r="7"/>',
    ),
    "helmets": (
        '<path class="k-" d="M58 134c4 24 20 34 44 32M140 134l-36 32" stroke-width="5"/><path class="c" d="M32 132c-4-56 32-84 72-84s66 30 66 72q0 16-14 14-56-10-110 4-14 4-14-6Z"/><g class="d"><path d="M72 66c-14 12-20 28-22 44l14-4c2-16 8-28 20-38ZM104 60v38h14V60ZM140 68c8 10 12 20 14 36l-13-2c-2-14-6-22-12-32Z"/></g><path class="l-" d="M44 116c2-30 18-50 42-56" stroke-width="4" opacity=".6"/>',
        '<path class="k-" d="M60 128c2 26 16 38 44 38M138 128l-32 38" stroke-width="5"/><path class="c" d="M22 122C30 72 66 46 104 48c44 2 70 34 72 66l4 10q0 6-8 6H30q-10 0-8-8Z"/><g class="k" opacity=".75"><path d="M50 102c4-18 16-30 30-36l6 8c-14 6-22 14-26 28ZM92 102c2-16 4-26 8-36h10c-4 12-6 22-6 36ZM126 102c0-14 0-24-2-34l10 4c4 10 6 18 6 30ZM156 104c-1-8-3-14-6-22l8 8c3 6 4 10 5 14Z"/></g>',
        '<path class="k-" d="M62 130c2 24 16 36 42 36M136 130l-30 36" stroke-width="5"/><path class="d" d="M150 94l40 10q6 2 2 8l-44 10Z"/><path class="c" d="M28 128c-6-50 30-82 74-82 38 0 60 26 62 62q0 22-14 22Q92 120 44 136q-14 4-16-8Z"/><path class="l" d="M48 98c6-20 20-34 40-38l2 12c-14 4-24 14-28 28ZM104 58l22 4-2 30h-20Z"/>',
    ),
    "panniers": (
        '<path class="k-" d="M70 44c0-16 60-16 60 0" stroke-width="6"/><rect class="c" x="48" y="62" width="104" height="104" rx="14"/><rect class="d" x="44" y="42" width="112" height="28" rx="12"/><path class="k-" d="M72 66v40M128 66v40" stroke-width="7"/><rect class="m" x="66" y="86" width="12" height="12" rx="2"/><rect class="m" x="122" y="86" width="12" height="12" rx="2"/><path class="w" d="M100 116l16 14-16 14-16-14Z" opacity=".85"/>',
        '<path class="o-" d="M74 58c0-32 52-32 52 0" stroke-width="6"/><path class="c" d="M42 62q0-8 8-8h100q8 0 8 8l-6 90q-1 14-14 14H62q-13 0-14-14Z"/><path class="d" d="M42 62q0-8 8-8h100q8 0 8 8l-2 40q-56 24-112 0Z"/><rect class="o" x="92" y="98" width="16" height="28" rx="4"/><circle class="m" cx="100" cy="116" r="3"/>',
        '<g class="k-" stroke-width="6"><path d="M66 44v14M134 44v14"/></g><rect class="c" x="54" y="50" width="92" height="116" rx="18"/><path class="l" d="M54 84V68a18 18 0 0 1 18-18h56a18 18 0 0 1 18 18v16Z"/><rect class="d" x="66" y="104" width="68" height="50" rx="10"/><path class="w" d="M66 120h68v8H66Z" opacity=".8"/><rect class="k" x="94" y="76" width="12" height="22" rx="3"/>',
    ),
    "bells": (
        '<path class="c" d="M40 132c0-46 28-78 60-78s60 32 60 78Z"/><path class="d" d="M122 60c24 14 38 40 38 72h-26c0-32-2-54-12-72Z"/><rect class="m" x="32" y="130" width="136" height="12" rx="6"/><circle class="m" cx="100" cy="50" r="9"/><path class="k-" d="M60 142q40 34 80 0" stroke-width="6"/><path class="l-" d="M58 118c2-24 12-38 26-46" stroke-width="5" opacity=".8"/>',
        '<path class="k-" d="M134 120l36-16" stroke-width="8"/><circle class="k" cx="172" cy="102" r="8"/><circle class="c" cx="96" cy="104" r="56"/><circle class="d-" cx="96" cy="104" r="36" stroke-width="4"/><circle class="m" cx="96" cy="104" r="12"/><path class="l-" d="M58 92c6-18 18-28 34-32" stroke-width="5" opacity=".8"/>',
        '<rect class="k" x="72" y="144" width="56" height="22" rx="6"/><path class="m-" d="M100 144v-20" stroke-width="8"/><path class="c" d="M46 122c0-42 24-70 54-70s54 28 54 70q0 6-6 6H52q-6 0-6-6Z"/><path class="d" d="M46 114h108v8q0 6-6 6H52q-6 0-6-6Z"/><circle class="o" cx="148" cy="66" r="9"/><path class="m-" d="M148 66l-14 12" stroke-width="5"/><path class="l-" d="M62 104c2-18 10-30 22-36" stroke-width="5" opacity=".8"/>',
    ),
}  # fmt: skip
_FLAT = {"pans": (0, 2), "knives": (0, 1, 2), "boards": (0, 1), "bells": (1,)}


def drawing(product: Product) -> str:
    """Return the name of a made-up product's drawing."""
    return f"{CATEGORIES[product.category - 1].slug}-{product.variant}"


def draw(name: str, colour: str, label: str) -> str:
    """Return the SVG text of a drawing, "" where there is none of that name.

    Colour and label come from the shop's table, so they are escaped here: what this
    returns is safe to put into a page as it is.
    """
    category, _, variant = name.partition("-")
    bodies = _BODIES.get(category, ())
    if variant not in map(str, range(len(bodies))):
        return ""
    body, lying = bodies[int(variant)], int(variant) in _FLAT.get(category, ())
    shadow = "" if lying else _SHADOW.format(72 if category == "bicycles" else 58)
    return (
        f'<svg class="art" viewBox="0 0 200 200" role="img" aria-label="{escape(label)}"'
        f' style="--c:{escape(colour)}">{shadow}{body}</svg>'
    )
