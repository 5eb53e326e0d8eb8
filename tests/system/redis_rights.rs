//! A Redis user that lacks a right that the program needs: no script does half of its work, the program names the
//! missing right, and claims continue once the user has it.

use support::{Sale, until};

const EVERYTHING: [&str; 2] = ["+@all", "~*"];

/// Sets the rights of the default user, which is the program's user.
fn set_rights(sale: &Sale, rules: &[&str]) {
    // Runs as another user, since the limited user cannot restore its own rights.
    let args = [&["--user", "owner", "--pass", "x", "--no-auth-warning", "ACL", "SETUSER", "default"], rules];
    assert_eq!(sale.redis_cli_without_program(&args.concat()), "OK");
}

fn make_owner(sale: &Sale) {
    let owner = ["ACL", "SETUSER", "owner", "on", "nopass", "+@all", "~*", "&*"];
    assert_eq!(sale.redis_cli_without_program(&owner), "OK");
}

/// The stock of coffee, its number of held units, and the number of events ever sent.
fn held_and_sent(sale: &Sale) -> (String, String, String) {
    let as_owner = |args: &[&str]| {
        let owner = ["--user", "owner", "--pass", "x", "--no-auth-warning"];
        sale.redis_cli_without_program(&[&owner[..], args].concat())
    };
    let sent = as_owner(&["XINFO", "STREAM", "seckill:{0}:orders"]);
    let sent = sent.lines().skip_while(|line| *line != "entries-added").nth(1).unwrap().to_owned();
    let stock = as_owner(&["HGET", "seckill:{0}:coupon:coffee", "stock"]);
    (stock, as_owner(&["HLEN", "seckill:{0}:claims:coffee"]), sent)
}

#[tokio::test]
async fn a_missing_right_stops_claims_is_named_and_its_return_is_noticed() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    make_owner(&sale);
    sale.create("coffee", 1_000).await;
    let every_key = "~seckill:{0}:*";
    let rights: &[(&[&str], &str)] = &[
        (&["-xadd"], "+xadd"),
        (&["-hset"], "+hset"),
        (&["-hincrby"], "+hincrby"),
        (&["-hdel"], "+hdel"),
        (&["-xack"], "+xack"),
        (&["-xgroup"], "+xgroup|create"),
        (&["-set"], "+set"),
        (&["-eval"], "+eval"),
        (&["-evalsha"], "+evalsha"),
        (&["-xreadgroup"], "+xreadgroup"),
        (&["-script"], "+script|load"),
        (&["-@write"], "+xadd"),
        (&["resetkeys", "~seckill:{0}:[c-np-z]*", "~seckill:{0}:epoch"], every_key),
        (&["resetkeys", "%R~*"], every_key),
        (
            &["resetkeys", "~*:epoch", "~*:orders", "~*:tally", "~*:postgres_lsn", "~*:coupon:*", "%R~*"],
            every_key,
        ),
    ];
    for (number, (rules, named)) in rights.iter().enumerate() {
        set_rights(&sale, rules);
        let user = format!("user-{number}");
        let answer = sale.claim("coffee", &user).await;
        let (stock, held, sent) = held_and_sent(&sale);
        assert_eq!((1_000 - stock.parse::<i64>().unwrap()).to_string(), held, "{rules:?}: half made");
        assert_eq!(held, sent, "{rules:?}: half made");
        until(&format!("{rules:?}: claims stop, and {named} is named"), async || {
            let ready = sale.get("/readyz").await;
            let is_named =
                [format!("lacks {named}"), format!(" {named}")].iter().any(|it| ready.text.contains(it));
            (ready.status == 503 && is_named).then_some(())
        })
        .await;
        let doctor = sale.command().arg("doctor").output().unwrap();
        let findings = String::from_utf8_lossy(&doctor.stdout).into_owned();
        let red = findings.lines().find(|line| line.starts_with("red") && line.contains("redis-permissions"));
        assert!(red.is_some_and(|line| line.contains(named)), "{rules:?}: {findings}");
        assert!(!doctor.status.success(), "{rules:?}");

        set_rights(&sale, &EVERYTHING);
        sale.until_ready().await;
        let again = sale.claim("coffee", &user).await;
        let expected = if answer.status == 202 { 200 } else { 202 };
        assert_eq!(again.status, expected, "{rules:?}: {} {}", answer.text, again.text);
    }
    let _worker = sale.spawn("worker", &[("SECKILL_WORKERS", "1")]);
    sale.assert_in_agreement("coffee").await;
    let orders = i64::try_from(rights.len()).unwrap();
    assert_eq!(sale.psql_number("select count(*) from orders where status = 'confirmed'"), orders);
}

#[tokio::test]
async fn a_missing_right_is_named_before_the_first_claim_and_the_start_goes_on_once_it_is_given() {
    let sale = Sale::start_with(&[("SECKILL_WORKERS", "0")]).await;
    sale.create("coffee", 10).await;
    let shop = ["ACL", "SETUSER", "shop", "on", ">secret", "+@all", "-xadd", "~seckill:*", "&*"];
    assert_eq!(sale.redis_cli_without_program(&shop), "OK");
    let url = format!("redis+unix://shop:secret@localhost{}", sale.redis_socket().display());
    let epoch = sale.epoch();
    let other = sale.spawn_by_address("serve", &[], &[("REDIS_URL", &url)]);
    other.until_logged("Redis's user shop lacks +xadd: `ACL SETUSER shop +xadd`").await;
    assert_eq!(sale.redis_cli_without_program(&["ACL", "SETUSER", "shop", "+xadd"]), "OK");
    other.url_when_up().await;
    assert_eq!(sale.epoch(), epoch, "the missing right causes no rebuild");
}
