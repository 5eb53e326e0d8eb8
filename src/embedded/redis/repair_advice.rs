//! Advice for a Redis that cannot load its append-only files: the command that repairs them, and what the repair loses.
//! The program repairs nothing without the operator.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const FILES: &str = "appendonlydir";
const MANIFEST: &str = "appendonly.aof.manifest";
/// Redis logs this for a file that is valid up to some offset. Only the last file may be truncated at its offset.
const BAD_FORMAT: &str = "Bad file format reading the append only file ";
/// Texts that Redis logs when files are missing, truncated or garbled (`src/aof.c`, `src/rdb.c`).
const DAMAGE: [&str; 13] = [
    BAD_FORMAT,
    "the truncated file is not the last file",
    "Unexpected end of file reading the append only file",
    "Unrecoverable error reading the append only file",
    "Unable to obtain the AOF file",
    "AOF manifest",
    "Short read or OOM loading DB",
    "Internal error in RDB",
    "Can't handle RDB format version",
    "Wrong signature trying to load DB",
    "RDB checksum",
    "crashed by signal",
    "Guru Meditation",
];

const FORBIDDEN: &str = "Permission denied";

/// The command for this folder; `None` if these lines of Redis's log show no damage.
pub fn repair_advice(folder: &Path, log_lines: &[String]) -> Option<String> {
    let files = folder.join(FILES);
    // 1234:M 30 Nov 2026 03:20:24.247 # Unable to obtain …
    let last_with = |texts: &[&str]| {
        let line = log_lines.iter().rev().find(|line| texts.iter().any(|text| line.contains(text)))?;
        Some(line.split_once(" # ").map_or(line.as_str(), |(_, message)| message))
    };
    if let Some(message) = last_with(&[FORBIDDEN]) {
        let owner = fs::metadata(folder).ok()?;
        let (uid, gid, files) = (owner.uid(), owner.gid(), quoted(&files));
        return Some(format!(
            "Redis may not use its own files: run `chown -R {uid}:{gid} {files} && chmod -R u=rwX,go= {files}`; \
             nothing is lost ({message})"
        ));
    }
    let message = last_with(&DAMAGE)?;
    let rename = format!("mv {} {}", quoted(&files), quoted(&unused_name(&files)));
    let manifest = files.join(MANIFEST);
    let loss = "Recorded orders are safe in Postgres, and the next start rebuilds Redis from it: only claims that \
                were accepted and not recorded yet are lost";
    Some(if is_last_file(&manifest, message) {
        format!(
            "Redis cannot load its log: run `redis-check-aof --fix {}`, which keeps everything before the damage, or \
             `{rename}`, which starts with an empty log. {loss} ({message})",
            quoted(&manifest)
        )
    } else {
        format!("Redis cannot load its log: run `{rename}`. {loss} ({message})")
    })
}

/// Whether the message is about the last file of the manifest.
fn is_last_file(manifest: &Path, message: &str) -> bool {
    let Some((_, damaged)) = message.split_once(BAD_FORMAT) else { return false };
    let text = fs::read_to_string(manifest).unwrap_or_default();
    let last = text.lines().filter_map(|line| line.strip_prefix("file ")?.split(' ').next()).next_back();
    last.is_some_and(|last| damaged.split(':').next() == Some(last))
}

/// A name that does not exist yet: `mv` would move the files into an existing folder.
fn unused_name(files: &Path) -> PathBuf {
    let numbered = |number: u32| files.with_file_name(format!("{FILES}.damaged-{number}"));
    (1..u32::MAX).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| numbered(0))
}

/// The path, quoted for a POSIX shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_with(line: &str) -> Vec<String> {
        vec![
            "1:C 30 Nov 2026 03:20:24.247 # a banner".into(),
            format!("1:M 30 Nov 2026 03:20:24.247 # {line}"),
        ]
    }

    #[test]
    fn only_the_last_file_of_the_log_may_be_truncated() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("it's redis");
        fs::create_dir_all(folder.join(FILES)).unwrap();
        let manifest = "file a.2.base.rdb seq 2 type b\nfile a.2.incr.aof seq 2 type i\nfile a.3.incr.aof seq 3 type i\n";
        fs::write(folder.join(FILES).join(MANIFEST), manifest).unwrap();
        let shown = folder.display().to_string().replace('\'', r"'\''");
        let first = |line: &str| {
            repair_advice(&folder, &log_with(line)).unwrap().split('`').nth(1).unwrap().to_owned()
        };

        let fix = format!("redis-check-aof --fix '{shown}/appendonlydir/appendonly.aof.manifest'");
        assert_eq!(first(&format!("{BAD_FORMAT}a.3.incr.aof: make a backup")), fix);
        let rename = |number| format!("mv '{shown}/appendonlydir' '{shown}/appendonlydir.damaged-{number}'");
        for line in [&format!("{BAD_FORMAT}a.2.incr.aof: make a backup"), "Found an empty AOF manifest"] {
            assert_eq!(first(line), rename(1), "{line}");
        }
        fs::create_dir(folder.join("appendonlydir.damaged-1")).unwrap();
        assert_eq!(first("Fatal error: the truncated file is not the last file"), rename(2));
        assert_eq!(repair_advice(&folder, &log_with("User requested shutdown...")), None);
    }
}
