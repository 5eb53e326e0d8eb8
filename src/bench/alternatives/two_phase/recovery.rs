//! Ends the prepared transactions of a dead coordinator. Both databases must answer.

use std::collections::BTreeSet;

use anyhow::Result;

use super::{ORDERS, STOCK, finish, gid};
use crate::postgres::PgConnection;

/// Ends every prepared transaction in both databases. Commits a sale if both parts are prepared or if the deduction of
/// the stock is committed; otherwise rolls the sale back. This is correct because a coordinator prepares the order
/// first and commits it last.
///
/// # Errors
/// When Postgres fails; the recovery can be repeated.
pub async fn recover(stock: &mut PgConnection, orders: &mut PgConnection) -> Result<()> {
    let in_stock = orders_of(&prepared(stock).await?);
    let in_orders = orders_of(&prepared(orders).await?);
    for order in in_stock.union(&in_orders) {
        let is_sold =
            in_stock.contains(order) && in_orders.contains(order) || is_deducted(stock, order).await?;
        let how = if is_sold { "commit prepared" } else { "rollback prepared" };
        // The deduction first: if this recovery stops afterwards, the next one finds the deduction committed.
        if in_stock.contains(order) {
            finish(stock, how, &gid(STOCK, order)).await?;
        }
        if in_orders.contains(order) {
            finish(orders, how, &gid(ORDERS, order)).await?;
        }
    }
    Ok(())
}

/// Names of the transactions that are prepared in this connection's database.
pub async fn prepared(connection: &mut PgConnection) -> Result<Vec<String>> {
    let sql = "select gid from pg_prepared_xacts where database = current_database()";
    Ok(sqlx::query_scalar(sql).fetch_all(connection).await?)
}

fn orders_of(gids: &[String]) -> BTreeSet<String> {
    gids.iter().filter_map(|gid| gid.split_once(':')).map(|(_, order)| order.to_owned()).collect()
}

async fn is_deducted(stock: &mut PgConnection, order: &str) -> Result<bool> {
    let sql = "select exists (select 1 from deductions where order_id = $1::uuid)";
    Ok(sqlx::query_scalar(sql).bind(order).fetch_one(stock).await?)
}
