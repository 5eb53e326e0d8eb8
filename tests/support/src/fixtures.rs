//! Values that many tests need: the program's path, temporary directories, coupon definitions, tokens.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use seckill::config::CredentialSettings;
use seckill::domain::{ClaimDurability, Definition};
use tempfile::TempDir;

/// Path of the program under test. Cargo and nextest set the variable for the tests of the package.
pub fn program() -> OsString {
    std::env::var_os("CARGO_BIN_EXE_seckill").expect("cargo test or cargo nextest runs this test")
}

/// A temporary directory that the users of the stores, who are not root, can pass through.
pub fn temp_dir(prefix: &str) -> TempDir {
    let dir = tempfile::Builder::new().prefix(prefix).tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

/// A coupon that is open: no window, one unit for each user, orders confirmed at once, version 1. A test that
/// needs something else writes `Definition { paused: true, ..definition("coffee", 5) }`.
pub fn definition(id: &str, total: i64) -> Definition {
    Definition {
        id: id.parse().unwrap(),
        title: id.to_owned(),
        total,
        starts_at: None,
        ends_at: None,
        paused: false,
        per_user_limit: 1,
        reserve_seconds: None,
        durability: ClaimDurability::Redis,
        waitlist: false,
        unlisted: false,
        version: 1,
        spread: None,
    }
}

/// A user's token, signed with the server's secret.
pub fn mint_token(secret: &str, user: &str, lifetime: Duration) -> String {
    let settings =
        CredentialSettings { admin_token: None, jwt_secret: None, jwt_audience: None, jwt_issuer: None };
    seckill::cli::token::mint_token(secret.as_bytes(), &user.parse().unwrap(), lifetime, &settings).unwrap()
}

/// The first comment line of a script in `lua`. Every request that sends the script's text contains this line.
pub fn script_text(script: &str) -> String {
    let path = format!("{}/../../lua/{script}.lua", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    text.lines().find_map(|line| line.strip_prefix("-- ")).unwrap().to_owned()
}

/// SQL with which Postgres permanently refuses the first order of users whose name begins with `doomed-`: their events become dead letters.
pub const REFUSE_SOME: &str = "
    create function refuse_some() returns trigger language plpgsql as $$
    begin
        if new.user_id like 'doomed-%' and new.status <> 'rejected'
            and not exists (select from orders where user_id = new.user_id and status = 'rejected') then
            raise exception 'doomed' using errcode = '23514';
        end if;
        return new;
    end $$;
    create trigger refuse_some before insert on orders for each row execute function refuse_some()";
