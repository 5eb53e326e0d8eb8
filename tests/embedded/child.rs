//! A program with embedded stores in a separate process, which a test kills.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use seckill::data_dir::DataDir;
use seckill::embedded::Embedded;

/// The child's data directory. Set only for the child process.
const CHILD_DIR: &str = "SECKILL_TEST_CHILD_DIR";
const READY: &str = "the child's stores are ready";

/// Starts the program and waits until its stores are ready.
pub fn start(dir: &Path) -> Child {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child::child_program", "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains(READY)));
    child
}

/// Not a test: `start` runs it in a child process.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "runs in a child process only"]
async fn child_program() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let dir = DataDir::open(Some(Path::new(&dir))).unwrap();
    let _stores = Embedded::start(&dir).await.unwrap();
    println!("{READY}");
    std::future::pending::<()>().await;
}
