//! The paths of the stores' sockets and folders: unusual paths, paths too long for a socket, folders of other users.

use std::fs;

use nix::unistd::Uid;
use seckill::config::SOCKET_PATH_MAX_BYTES;
use seckill::embedded::Embedded;
use sqlx::Connection;
use support::temp_dir;

use crate::harness::{data_dir, mode_and_uid, psql, redis_cli};

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_a_space_a_percent_and_a_plus_works_for_every_client() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "flash sale 100%20+\"é'");
    let stores = Embedded::start(&dir).await.unwrap();
    let addresses = stores.addresses();
    assert!(addresses.redis_socket().unwrap().unwrap().starts_with(dir.path()));
    assert_eq!(redis_cli(&addresses, &["ping"]).unwrap(), "PONG");
    assert_eq!(psql(&addresses, "select 1").unwrap(), "1");
    let mut connection = sqlx::PgConnection::connect(&addresses.database_url).await.unwrap();
    let one: i32 = sqlx::query_scalar("select 1").fetch_one(&mut connection).await.unwrap();
    assert_eq!(one, 1);
    connection.close().await.unwrap();
    stores.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_too_long_for_a_socket_gets_a_run_directory() {
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, &"long/".repeat(SOCKET_PATH_MAX_BYTES / 5));
    let stores = Embedded::start(&dir).await.unwrap();
    let addresses = stores.addresses();
    let socket = addresses.redis_socket().unwrap().unwrap();
    let run_dir = socket.parent().unwrap().parent().unwrap();
    assert!(!run_dir.starts_with(dir.path()));
    assert_eq!(mode_and_uid(run_dir), (0o711, Uid::effective().as_raw()));
    assert_eq!(mode_and_uid(&run_dir.join("redis")).0, 0o700);
    assert_eq!(mode_and_uid(&run_dir.join("postgres")).0, 0o700);

    let joined = Embedded::join(dir.path()).await.unwrap();
    assert_eq!(joined.redis_url, addresses.redis_url);
    assert_eq!(redis_cli(&joined, &["ping"]).unwrap(), "PONG");
    assert_eq!(psql(&joined, "select 1").unwrap(), "1");
    stores.stop().await.unwrap();
    assert!(!run_dir.exists());

    if Uid::effective().is_root() {
        // Another user made the directory first: the stores neither use nor remove it.
        fs::create_dir(run_dir).unwrap();
        std::os::unix::fs::chown(run_dir, Some(54321), Some(54321)).unwrap();
        let stores = Embedded::start(&dir).await.unwrap();
        let elsewhere = stores.addresses().redis_socket().unwrap().unwrap();
        assert!(!elsewhere.starts_with(run_dir));
        stores.stop().await.unwrap();
        fs::remove_dir(run_dir).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_folder_of_another_user_is_refused() {
    if !Uid::effective().is_root() {
        return;
    }
    let parent = temp_dir("seckill-test-");
    let dir = data_dir(&parent, "data");
    let folder = dir.path().join("postgres");
    fs::create_dir(&folder).unwrap();
    std::os::unix::fs::chown(&folder, Some(54321), Some(54321)).unwrap();
    let refused = Embedded::start(&dir).await.err().unwrap().to_string();
    assert!(refused.contains("uid 54321") && refused.contains("chown"), "{refused}");
}
