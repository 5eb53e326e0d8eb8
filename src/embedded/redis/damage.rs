//! A Redis that cannot load its append-only files: which command mends them, and what it costs.

use std::fs;
use std::path::{Path, PathBuf};

const FILES: &str = "appendonlydir";
const MANIFEST: &str = "appendonly.aof.manifest";
/// Redis says so of a file whose beginning is whole; only the last one may be cut there.
const BAD_FORMAT: &str = "Bad file format reading the append only file ";
/// What else it says when files are missing, cut or garbled.
const DAMAGE: [&str; 12] = [
    BAD_FORMAT,
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

/// The command for this very folder, where these lines of Redis's log tell of damage.
pub(super) fn advice(folder: &Path, said: &[String]) -> Option<String> {
    let told = said.iter().rev().find(|line| DAMAGE.iter().any(|words| line.contains(words)))?;
    // 1234:M 30 Nov 2026 03:20:24.247 # Unable to obtain …
    let told = told.split_once(" # ").map_or(told.as_str(), |(_, words)| words);
    let files = folder.join(FILES);
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
