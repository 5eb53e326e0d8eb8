//! The text that `seckill demo` prints.

use super::{BufRead, BufReader, Command, Stdio};

#[test]
fn the_lines_that_the_demo_prints_work_when_pasted() {
    let dir = support::temp_dir("seckill-demo-");
    let mut command = Command::new(support::program());
    command.args(["demo", "--listen", "127.0.0.1:0"]).current_dir(dir.path());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SECKILL_")) {
        command.env_remove(name);
    }
    let mut demo = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines();
    let mut pasted = Vec::new();
    for line in lines.by_ref().map(Result::unwrap) {
        let is_command =
            line.starts_with("  ") && ["curl", "redis-cli", "psql"].iter().any(|word| line.contains(word));
        if is_command {
            let shell = Command::new("sh").args(["-c", &line]).current_dir(dir.path()).output().unwrap();
            assert!(shell.status.success(), "{line}: {}", String::from_utf8_lossy(&shell.stderr));
            pasted.push(String::from_utf8_lossy(&shell.stdout).into_owned());
        }
        if line.contains("Ctrl-C") {
            break;
        }
    }
    let demo_pid = nix::unistd::Pid::from_raw(i32::try_from(demo.id()).unwrap());
    nix::sys::signal::kill(demo_pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert!(demo.wait().unwrap().success());
    assert_eq!(pasted.len(), 3, "{pasted:?}");
    let order = pasted[0].split("\"order\":\"").nth(1).unwrap().split('"').next().unwrap();
    assert!(pasted[0].contains("202 Accepted"), "{}", pasted[0]);
    assert!(pasted[1].contains(order) && pasted[1].contains("alice"), "{}", pasted[1]);
    assert!(pasted[2].contains(order), "{}", pasted[2]);
}
