-- Clean tables over the raw transactions: customer known, no cancellation, quantity and
-- price positive, no service codes. Times are the shop's local ones, taken as UTC.
create table retail_sale as
select
    customer_id as user_id,
    stock_code as item_id,
    invoice_date at time zone 'UTC' as sold_at,
    quantity
from retail_transaction
where customer_id is not null
  and invoice not like 'C%'
  and quantity > 0
  and unit_price > 0
  and stock_code not in ('POST', 'D', 'M', 'BANK CHARGES', 'DOT', 'CRUK', 'PADS', 'C2',
                         'AMAZONFEE', 'S', 'B');
create index on retail_sale (user_id, sold_at);
create index on retail_sale (item_id);

-- One product has several spellings of its description: the most frequent one counts.
create table retail_product as
select
    stock_code as item_id,
    mode() within group (order by trim(description)) as description,
    percentile_cont(0.5) within group (order by unit_price) as price
from retail_transaction
where stock_code in (select item_id from retail_sale) and unit_price > 0
group by stock_code;
alter table retail_product add primary key (item_id);

create table retail_customer as
select customer_id as user_id, mode() within group (order by country) as country
from retail_transaction
where customer_id in (select user_id from retail_sale)
group by customer_id;
alter table retail_customer add primary key (user_id);

analyze retail_sale;
analyze retail_product;
analyze retail_customer;
