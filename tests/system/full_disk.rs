//! A full disk: readiness, log and doctor name the store, the folder and the free space, and the sale continues once
//! there is space. The data directory is on a small disk that only the program and its stores can see.

use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use reqwest::Method;

use support::{Process, Sale, signal, until};

const SECRET: &str = "a secret of at least thirty-two bytes";
const ENVIRONMENT: [(&str, &str); 2] = [("SECKILL_ADMIN_TOKEN", "token"), ("SECKILL_JWT_SECRET", SECRET)];

/// Starts the program with a data directory on a disk of this many megabytes.
fn spawn_on_disk(sale: &Sale, megabytes: u32) -> Process {
    // The harness does not see the disk: it reads the secrets from here.
    std::fs::create_dir_all(sale.data_dir()).unwrap();
    std::fs::write(sale.data_dir().join("admin-token"), "token\n").unwrap();
    std::fs::write(sale.data_dir().join("jwt-secret"), SECRET).unwrap();
    let serve = sale.command();
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let mount = format!("mount -t tmpfs -o size={megabytes}m,mode=711 tmpfs \"$1\" && shift && exec");
    let mut command = Command::new("unshare");
    if uid.is_root() {
        command.args(["--mount", "sh", "-c", &format!("{mount} \"$@\"")]);
    } else {
        // Root in a new namespace for the mount, then the same user as before.
        let again = format!("unshare --user --map-user={uid} --map-group={gid}");
        command.args(["--map-root-user", "--mount", "sh", "-c", &format!("{mount} {again} \"$@\"")]);
    }
    command.arg("sh").arg(sale.data_dir()).arg(serve.get_program()).arg("serve");
    command.envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))));
    sale.spawn_as("serve", command)
}

/// The path of the program's data directory for other processes.
fn disk_of(sale: &mut Sale) -> PathBuf {
    let data_dir = sale.data_dir();
    PathBuf::from(format!("/proc/{}/root{}", sale.server().pid(), data_dir.display()))
}

fn fill(disk: &std::path::Path) -> PathBuf {
    use std::io::Write;
    let path = disk.join("filler");
    let mut file = std::fs::File::create(&path).unwrap();
    let block = vec![0; 4_096];
    while file.write_all(&block).is_ok() {}
    path
}

async fn start_on_disk(megabytes: u32) -> Sale {
    let mut sale = Sale::without_server(&ENVIRONMENT);
    let process = spawn_on_disk(&sale, megabytes);
    sale.use_as_server(process).await;
    sale.until_ready().await;
    sale
}

/// Runs `seckill doctor` where it sees the server's disk.
fn doctor(sale: &mut Sale) -> String {
    let doctor = sale.command();
    let pid = sale.server().pid().to_string();
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid, "--mount"]);
    if !Uid::effective().is_root() {
        command.args(["--user", "--preserve-credentials"]);
    }
    command.arg(doctor.get_program()).arg("doctor");
    command.envs(doctor.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_full_disk_is_named_in_readiness_log_and_doctor_and_the_sale_goes_on_once_there_is_room() {
    let mut sale = start_on_disk(200).await;
    sale.create("coffee", 100_000).await;
    let mut accepted = Vec::new();
    let disk = disk_of(&mut sale);
    let folder = format!("{}/redis", sale.data_dir().display());
    let message = format!("the disk of {folder} is full: 0 of 209 MB are free");
    let filler = fill(&disk);
    for number in 0.. {
        let claim = sale.claim("coffee", &format!("user-{number}")).await;
        if claim.status != 202 {
            assert_eq!(claim.status, 503, "{}", claim.text);
            break;
        }
        accepted.push(claim.body["order"].as_str().unwrap().to_owned());
    }
    until("readiness names the disk", async || {
        sale.get("/readyz").await.text.contains(&message).then_some(())
    })
    .await;
    let verbose = sale.get("/readyz?verbose").await;
    assert!(verbose.body["stores"]["redis"].as_str().unwrap().contains(&message), "{}", verbose.text);
    assert!(
        verbose.body["stores"]["disk"].as_str().unwrap().contains("is full: 0 of 209 MB"),
        "{}",
        verbose.text
    );
    let log = sale.log();
    let died = log.lines().find(|line| line.contains("Redis died")).unwrap();
    assert!(died.contains(&message), "{died}");
    let found = doctor(&mut sale);
    assert!(found.contains(&message) && found.contains("free space"), "{found}");
    assert!(!found.contains("password"), "{found}");

    // Postgres is named too, with its own last log lines.
    let postmaster = std::fs::read_to_string(disk.join("postgres/cluster/postmaster.pid")).unwrap();
    signal(postmaster.lines().next().unwrap().parse().unwrap(), Signal::SIGKILL);
    let died = format!("the disk of {}/postgres is full: 0 of 209 MB", sale.data_dir().display());
    until("the log names Postgres", async || {
        let log = sale.log();
        log.lines().any(|line| line.contains("Postgres died") && line.contains(&died)).then_some(())
    })
    .await;

    sale.server().until_logged("is started again as soon as there is room").await;

    std::fs::remove_file(filler).unwrap();
    sale.until_ready().await;
    let claim = sale.claim_with("coffee", "afterwards", &[("prefer", "wait=10")]).await;
    assert_eq!(claim.status, 201, "{}", claim.text);
    accepted.push(claim.body["order"].as_str().unwrap().to_owned());
    until("all is recorded", async || {
        let stream = sale.admin(Method::GET, "/v1/admin/stream", None).await;
        (stream.body["backlog"] == 0).then_some(())
    })
    .await;
    let orders = sale.admin(Method::GET, "/v1/admin/orders?coupon=coffee&limit=200", None).await;
    for order in &accepted {
        assert!(orders.text.contains(order), "{order} is lost");
    }
    assert_eq!(sale.server().log().matches("is started again as soon as there is room").count(), 1);
}

#[tokio::test]
async fn a_first_start_on_a_disk_that_is_too_small_says_so() {
    for megabytes in [8, 36] {
        let sale = Sale::without_server(&ENVIRONMENT);
        let mut process = spawn_on_disk(&sale, megabytes);
        let status = process.wait();
        let log = process.log();
        assert_eq!(status.code(), Some(1), "{log}");
        let message = log.lines().last().unwrap();
        let folder = format!("the disk of {}/postgres is", sale.data_dir().display());
        assert!(message.contains(&folder) && message.contains("MB are free"), "{message}");
        assert!(message.contains("No space left on device"), "{message}");
    }
}
