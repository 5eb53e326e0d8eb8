//! `seckill coupon log` and `seckill order log`: read changes from the audit log and print a table that fits the terminal.

use serde_json::{Map, Value};

use super::client::{Client, ClientArgs};
use super::output::{Layout, field, single_line};
use crate::domain::{CouponId, OrderId};
use crate::printing;

/// Prints the changes of a coupon, or of all.
pub async fn of_coupon(coupon: Option<&CouponId>, client: &ClientArgs) -> anyhow::Result<()> {
    match coupon {
        Some(coupon) => print(&format!("?coupon={coupon}"), &format!("coupon {coupon}"), client).await,
        None => print("", "anything", client).await,
    }
}

/// Prints the changes of an order.
pub async fn of_order(order: OrderId, client: &ClientArgs) -> anyhow::Result<()> {
    print(&format!("?order={order}"), &format!("order {order}"), client).await
}

async fn print(query: &str, what: &str, client: &ClientArgs) -> anyhow::Result<()> {
    let client = Client::new(client)?;
    let rows = client.get_all(&format!("/v1/admin/audit{query}")).await?;
    client.print_all(&rows, |rows| match rows {
        [] => format!("no admin has changed {what} yet"),
        rows => log_table(rows, query.is_empty(), printing::stdout_width_columns()),
    })
}

/// The newest change is first. Without a width each change is on one line.
fn log_table(rows: &[Value], of_all: bool, width_columns: Option<u16>) -> String {
    let row = |row: &Value| {
        let [at, who, action] = ["at", "actor", "action"].map(|name| field(row, name));
        let coupon = row["coupon"].as_str().filter(|_| of_all);
        let coupon = coupon.map(|coupon| format!("coupon: {}", single_line(coupon)));
        let changes = coupon.into_iter().chain(changes(row));
        vec![to_seconds(&at), who, action, changes.collect::<Vec<_>>().join("\n")]
    };
    let layout = Layout { width_columns, wraps: &[false, false, false, true] };
    let rows: Vec<Vec<String>> = rows.iter().map(row).collect();
    layout.render(Some(&["AT", "WHO", "ACTION", "CHANGES"]), &rows, printing::stdout_takes_colours())
}

/// An RFC 3339 time in UTC without its fraction of a second.
fn to_seconds(time: &str) -> String {
    match time.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => time.to_owned(),
    }
}

/// One line for each changed field, such as `total: 100 -> 200`. The change of an order begins with a line of its id.
fn changes(row: &Value) -> Vec<String> {
    let (old, new) = (row["old"].as_object(), row["new"].as_object());
    let order = row["order"].as_str().map(|order| format!("order: {}", single_line(order)));
    let change = |(name, to): (&String, &Value)| {
        let name = single_line(name);
        match old.and_then(|old| old.get(&name)) {
            Some(from) => Some(format!("{name}: {} -> {}", value(from), value(to))),
            None if to.is_null() => None,
            None => Some(format!("{name}: {}", value(to))),
        }
    };
    order.into_iter().chain(new.into_iter().flat_map(Map::iter).filter_map(change)).collect()
}

fn value(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => single_line(text),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::log_table;

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_value_is_cut() {
        let title = "A title that is longer than one line of a terminal, as titles of coupons sometimes are";
        let row = [json!({
            "at": "2026-11-11T20:00:00.123456Z", "actor": "admin", "action": "edit", "order": null,
            "old": {"title": "coffee", "starts_at": null},
            "new": {"title": title, "starts_at": "2026-11-11T20:00:00Z"}
        })];
        let text = log_table(&row, false, Some(80));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(words(&text), words(&log_table(&row, false, None)), "{text}");
    }
}
