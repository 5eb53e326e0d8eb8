//! A Redis that cannot load its append-only files: which command mends them, and what it costs.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const FILES: &str = "appendonlydir";
const MANIFEST: &str = "appendonly.aof.manifest";
/// Redis says so of a file whose beginning is whole; only the last one may be cut there.
const BAD_FORMAT: &str = "Bad file format reading the append only file ";
/// What else it says when files are missing, cut or garbled.
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

/// The command for this very folder, where these lines of Redis's log tell of damage.
pub(super) fn advice(folder: &Path, said: &[String]) -> Option<String> {
    let files = folder.join(FILES);
    // 1234:M 30 Nov 2026 03:20:24.247 # Unable to obtain …
    let last_with = |words: &[&str]| {
        let line = said.iter().rev().find(|line| words.iter().any(|words| line.contains(words)))?;
        Some(line.split_once(" # ").map_or(line.as_str(), |(_, told)| told))
    };
    if let Some(told) = last_with(&[FORBIDDEN]) {
        let owner = fs::metadata(folder).ok()?;
        let (uid, gid, files) = (owner.uid(), owner.gid(), quoted(&files));
        return Some(format!(
            "Redis may not use its own files: run `chown -R {uid}:{gid} {files} && chmod -R u=rwX,go= {files}`; \
             nothing is lost ({told})"
        ));
    }
    let told = last_with(&DAMAGE)?;
    let aside = format!("mv {} {}", quoted(&files), quoted(&free_name(&files)));
    let manifest = files.join(MANIFEST);
    let safe = "Recorded orders are safe in Postgres, and Redis is rebuilt from it at the next start: lost are only \
                claims that were accepted but not recorded yet";
    Some(if is_last_file(&manifest, told) {
        format!(
            "Redis cannot load its log: run `redis-check-aof --fix {}`, which keeps what is before the damage, or \
             `{aside}`, which begins anew. {safe} ({told})",
            quoted(&manifest)
        )
    } else {
        format!("Redis cannot load its log: run `{aside}`. {safe} ({told})")
    })
}

/// Whether the damage is in the file that was written last.
fn is_last_file(manifest: &Path, told: &str) -> bool {
    let Some((_, named)) = told.split_once(BAD_FORMAT) else { return false };
    let text = fs::read_to_string(manifest).unwrap_or_default();
    let last = text.lines().filter_map(|line| line.strip_prefix("file ")?.split(' ').next()).next_back();
    last.is_some_and(|last| named.split(':').next() == Some(last))
}

/// `mv` would put the files into a folder that is there already.
fn free_name(files: &Path) -> PathBuf {
    let numbered = |number: u32| files.with_file_name(format!("{FILES}.damaged-{number}"));
    (1..u32::MAX).map(numbered).find(|path| !path.exists()).unwrap_or_else(|| numbered(0))
}

/// For a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if text.chars().all(is_plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Vec<String> {
        vec![
            "1:C 30 Nov 2026 03:20:24.247 # a banner".into(),
            format!("1:M 30 Nov 2026 03:20:24.247 # {line}"),
        ]
    }

    #[test]
    fn only_the_file_that_was_written_last_may_be_cut() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("it's redis");
        fs::create_dir_all(folder.join(FILES)).unwrap();
        let manifest = "file a.2.base.rdb seq 2 type b\nfile a.2.incr.aof seq 2 type i\nfile a.3.incr.aof seq 3 type i\n";
        fs::write(folder.join(FILES).join(MANIFEST), manifest).unwrap();
        let shown = folder.display().to_string().replace('\'', r"'\''");
        let first = |line: &str| advice(&folder, &said(line)).unwrap().split('`').nth(1).unwrap().to_owned();

        let fix = format!("redis-check-aof --fix '{shown}/appendonlydir/appendonly.aof.manifest'");
        assert_eq!(first(&format!("{BAD_FORMAT}a.3.incr.aof: make a backup")), fix);
        let aside = |number| format!("mv '{shown}/appendonlydir' '{shown}/appendonlydir.damaged-{number}'");
        for line in [&format!("{BAD_FORMAT}a.2.incr.aof: make a backup"), "Found an empty AOF manifest"] {
            assert_eq!(first(line), aside(1), "{line}");
        }
        fs::create_dir(folder.join("appendonlydir.damaged-1")).unwrap();
        assert_eq!(first("Fatal error: the truncated file is not the last file"), aside(2));
        assert_eq!(advice(&folder, &said("User requested shutdown...")), None);
    }
}
