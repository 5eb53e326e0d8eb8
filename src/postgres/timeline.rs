//! The timelines of this Postgres: each promotion of a standby begins a new one. The server's history file says at which
//! WAL position each earlier timeline was left.

use sqlx::{FromRow, PgConnection};

use super::PostgresError;

/// The timelines before the server's own, the oldest first, each with the WAL position at which it was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History(Vec<(u32, String)>);

#[derive(FromRow)]
struct Rights {
    may_read: bool,
    role: String,
}

/// What lets a role read the history.
#[must_use]
pub fn grant(role: &str) -> String {
    format!("grant execute on function pg_read_file(text) to \"{role}\"")
}

/// Reads the history of this server; why it cannot be read, as an inner error.
///
/// # Errors
/// If Postgres cannot serve.
pub async fn history(connection: &mut PgConnection) -> Result<Result<History, String>, PostgresError> {
    let rights = "select has_function_privilege('pg_read_file(text)', 'execute') as may_read, current_user::text as role";
    let Rights { may_read, role } = sqlx::query_as(rights).fetch_one(&mut *connection).await?;
    if !may_read {
        return Ok(Err(format!("the program may not read at which commit it began: {}", grant(&role))));
    }
    let read = "select pg_read_file('pg_wal/' || split_part(postgres_identity(), '/', 2) || '.history')";
    match sqlx::query_scalar::<_, String>(read).fetch_one(connection).await {
        Ok(text) => {
            Ok(History::parse(&text).ok_or_else(|| "its timeline's history is not in a known format".into()))
        }
        Err(error) if error.as_database_error().is_some() => {
            Ok(Err(format!("its timeline's history cannot be read: {error}")))
        }
        Err(error) => Err(error.into()),
    }
}

impl History {
    /// Reads a history file: a line has a timeline, the position at which it was left, and a reason.
    fn parse(text: &str) -> Option<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let read = |line: &str| {
            let mut fields = line.split_whitespace();
            Some((fields.next()?.parse().ok()?, padded(fields.next()?)?))
        };
        lines.map(read).collect::<Option<_>>().map(Self)
    }

    /// The lowest position at which this timeline or a later one was left: this server has the WAL of that timeline up to
    /// there. `None` if the timeline is not in the history.
    #[must_use]
    pub fn left_at(&self, timeline: u32) -> Option<&str> {
        let from = self.0.iter().position(|(of, _)| *of == timeline)?;
        self.0[from..].iter().map(|(_, left_at)| left_at.as_str()).min()
    }
}

/// The timeline in an identity such as `7312/00000002`, and the system identifier before it.
#[must_use]
pub fn split_identity(identity: &str) -> Option<(&str, u32)> {
    let (system, timeline) = identity.split_once('/')?;
    Some((system, u32::from_str_radix(timeline, 16).ok()?))
}

/// A position with all digits, as `durable_lsn()` returns it.
fn padded(position: &str) -> Option<String> {
    let (high, low) = position.split_once('/')?;
    let part = |text: &str| u32::from_str_radix(text, 16).ok();
    Some(format!("{:08X}/{:08X}", part(high)?, part(low)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_position_since_a_timeline_counts() {
        let text =
            "1\t0/56A6D48\tno recovery target specified\n\n# a comment\n3\tA/0\tpromoted\n4\t9/F0\tx\n";
        let history = History::parse(text).unwrap();
        assert_eq!(history.left_at(1), Some("00000000/056A6D48"));
        assert_eq!(history.left_at(3), Some("00000009/000000F0"));
        assert_eq!(history.left_at(4), Some("00000009/000000F0"));
        assert_eq!(history.left_at(2), None, "not an ancestor");
    }

    #[test]
    fn what_is_not_a_history_is_no_history() {
        for text in ["1", "1\tx/0\n", "one\t0/1\t", "1 0/1 a\n2 garbage b\n", "1\t056A6D48\t"] {
            assert_eq!(History::parse(text), None, "{text:?}");
        }
        assert_eq!(History::parse("").unwrap().left_at(1), None);
    }

    #[test]
    fn an_identity_has_a_system_and_a_hexadecimal_timeline() {
        assert_eq!(split_identity("7312/0000001A"), Some(("7312", 26)));
        assert_eq!(split_identity(""), None);
    }
}
