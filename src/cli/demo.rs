//! The text that `demo` prints once claims are accepted: commands to paste into a second terminal. `app` creates the
//! sample coupons and serves them.

use std::env;
use std::path::Path;

use crate::config::StoreSettings;

/// The values that the demo's text shows.
pub struct DemoText<'a> {
    /// The address with the bound port, such as `http://127.0.0.1:8080`.
    pub base_url: &'a str,
    /// The owner of `user_token`.
    pub user: &'a str,
    pub user_token: &'a str,
    pub stores: &'a StoreSettings,
    /// The data directory in use, from the settings or the default.
    pub data_dir: &'a Path,
    /// Whether the admin token was generated, and is in the data directory.
    pub admin_token_generated: bool,
}

pub fn demo_text(demo: &DemoText<'_>) -> String {
    render(demo, &running_program())
}

fn render(demo: &DemoText<'_>, program: &str) -> String {
    let DemoText { base_url, user, user_token, stores, data_dir, .. } = demo;
    let data_dir = data_dir.display();
    let admin_token = if demo.admin_token_generated {
        format!("its token is in {data_dir}/admin-token")
    } else {
        "its token is your SECKILL_ADMIN_TOKEN".to_owned()
    };
    let redis_cli = format!("{}{program} redis-cli", store_variables(stores, None));
    let psql = format!("{}{program} psql", store_variables(stores, Some(&stores.db_schema)));
    let prefix = &stores.redis_prefix;
    let where_to_paste = if stores.redis_url.is_some() {
        "in a shell with the same REDIS_URL and DATABASE_URL"
    } else {
        "in a second terminal, in this directory"
    };
    format!(
        "\
The demo is running. Open it in a browser: {base_url}
The operations page is {base_url}/admin, and {admin_token}.

On sale:

  coffee  open, 100 units
  tea     opens in a minute
  ticket  five minutes to pay
  gone    sold out, with a waiting list

Paste these {where_to_paste}. Claim a coffee as {user}:

  curl -sS -i -X POST -H 'Authorization: Bearer {user_token}' {base_url}/v1/coupons/coffee/claims

See its order event in Redis:

  {redis_cli} XREVRANGE '{prefix}:{{0}}:orders' + - COUNT 1

See its order in Postgres:

  {psql} -c 'select id, coupon_id, user_id, status, claimed_at, recorded_at from orders order by claimed_at desc limit 1'

Ctrl-C stops the demo."
    )
}

/// The variables that a command in another shell needs to use the same stores.
fn store_variables(stores: &StoreSettings, schema: Option<&str>) -> String {
    let data_dir = stores.data_dir.as_ref().filter(|_| stores.redis_url.is_none());
    let data_dir = data_dir.map(|dir| format!("SECKILL_DATA_DIR={} ", shell_quoted(&dir.to_string_lossy())));
    let schema = schema.filter(|schema| *schema != "seckill");
    let schema = schema.map(|schema| format!("SECKILL_DB_SCHEMA={schema} "));
    [data_dir, schema].into_iter().flatten().collect()
}

/// The path of this program, quoted for a shell; relative if it is below the working directory.
fn running_program() -> String {
    let Ok(program) = env::current_exe() else { return "seckill".to_owned() };
    let below = env::current_dir().ok().and_then(|dir| program.strip_prefix(dir).ok().map(Path::to_owned));
    let program = below.map_or(program, |path| Path::new(".").join(path));
    shell_quoted(&program.to_string_lossy())
}

fn shell_quoted(text: &str) -> String {
    let needs_no_quotes = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !text.is_empty() && text.chars().all(needs_no_quotes) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stores(data_dir: Option<&str>) -> StoreSettings {
        StoreSettings {
            data_dir: data_dir.map(Into::into),
            redis_url: None,
            database_url: None,
            stores: None,
            redis_prefix: "seckill".to_owned(),
            db_schema: "seckill".to_owned(),
            partitions: 1,
            postgres_connections: crate::config::POSTGRES_CONNECTIONS_DEFAULT,
        }
    }

    fn lines_to_paste(stores: &StoreSettings) -> Vec<String> {
        let demo = DemoText {
            base_url: "http://127.0.0.1:4711",
            user: "alice",
            user_token: "ey.ey.sig",
            stores,
            data_dir: Path::new("./data"),
            admin_token_generated: true,
        };
        let text = render(&demo, "./seckill");
        let commands = text.lines().filter(|line| line.contains("curl") || line.contains("./seckill"));
        commands.map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn the_lines_can_be_pasted() {
        assert_eq!(
            lines_to_paste(&stores(None)),
            [
                "curl -sS -i -X POST -H 'Authorization: Bearer ey.ey.sig' http://127.0.0.1:4711/v1/coupons/coffee/claims",
                "./seckill redis-cli XREVRANGE 'seckill:{0}:orders' + - COUNT 1",
                "./seckill psql -c 'select id, coupon_id, user_id, status, claimed_at, recorded_at from orders order by claimed_at desc limit 1'",
            ]
        );
    }

    #[test]
    fn settings_that_are_not_the_default_come_in_front() {
        let mut stores = stores(Some("/tmp/my data"));
        stores.db_schema = "shop".to_owned();
        let lines = lines_to_paste(&stores);
        assert!(lines[1].starts_with("SECKILL_DATA_DIR='/tmp/my data' ./seckill redis-cli "), "{}", lines[1]);
        assert!(
            lines[2].starts_with("SECKILL_DATA_DIR='/tmp/my data' SECKILL_DB_SCHEMA=shop ./seckill psql "),
            "{}",
            lines[2]
        );
    }
}
