//! Checks credentials from environment variables, flags and files: removes one final line end, and refuses a text that a
//! client could not send. An error names the source and never repeats the credential.

use super::limits::HEADER_CREDENTIAL_MAX_BYTES;

/// What a credential is for: decides which characters it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Sent in an `Authorization` header.
    AdminToken,
    /// The bytes of the text are the key: any characters are allowed.
    JwtSecret,
    /// `aud` or `iss` of a token.
    JwtClaim,
}

impl Credential {
    /// The credential in `text`. `name` is the variable, flag or file for the error.
    ///
    /// # Errors
    /// When the text is empty, has a probable mistake such as a blank at its end, or cannot be sent in a header.
    pub fn read(self, name: &str, text: &str) -> Result<String, String> {
        let line = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
        let what = if line.is_empty() {
            "is empty"
        } else if line.chars().all(char::is_whitespace) {
            "has only blanks"
        } else if line.chars().any(char::is_control) {
            "has a control character, such as a tab or a second line end"
        } else if line.starts_with(char::is_whitespace) || line.ends_with(char::is_whitespace) {
            "starts or ends with a blank"
        } else if line.starts_with('\u{feff}') {
            "starts with a byte order mark"
        } else if self != Self::JwtSecret && line.len() > HEADER_CREDENTIAL_MAX_BYTES {
            "is longer than 4096 bytes, which does not fit in a request"
        } else if self == Self::AdminToken && !line.is_ascii() {
            "has a character outside ASCII, which an HTTP header cannot have"
        } else {
            return Ok(line.to_owned());
        };
        Err(format!("{name} {what}"))
    }
}

pub(super) fn parse_admin_token(text: &str) -> Result<String, String> {
    Credential::AdminToken.read("SECKILL_ADMIN_TOKEN", text)
}

pub(super) fn parse_jwt_secret(text: &str) -> Result<String, String> {
    Credential::JwtSecret.read("SECKILL_JWT_SECRET", text)
}

pub(super) fn parse_jwt_audience(text: &str) -> Result<String, String> {
    Credential::JwtClaim.read("SECKILL_JWT_AUDIENCE", text)
}

pub(super) fn parse_jwt_issuer(text: &str) -> Result<String, String> {
    Credential::JwtClaim.read("SECKILL_JWT_ISSUER", text)
}

#[cfg(test)]
mod tests {
    use super::Credential::{self, AdminToken, JwtClaim, JwtSecret};

    const KINDS: [Credential; 3] = [AdminToken, JwtSecret, JwtClaim];

    #[test]
    fn one_final_line_end_is_removed_and_nothing_else() {
        for kind in KINDS {
            for (text, kept) in [
                ("secret", "secret"),
                ("secret\n", "secret"),
                ("secret\r\n", "secret"),
                ("two words", "two words"),
                ("a+b/c=", "a+b/c="),
            ] {
                assert_eq!(kind.read("X", text).as_deref(), Ok(kept), "{kind:?} {text:?}");
            }
        }
    }

    #[test]
    fn an_unusable_credential_is_refused_by_its_name_and_never_repeated() {
        for (text, what) in [
            ("", "empty"),
            ("\n", "empty"),
            ("\r\n", "empty"),
            (" \t", "blanks"),
            (" secret", "blank"),
            ("secret ", "blank"),
            ("secret \n", "blank"),
            ("\u{a0}secret", "blank"),
            ("secret\n\n", "control"),
            ("secret\r\r\n", "control"),
            ("secret\r", "control"),
            ("\nsecret", "control"),
            ("sec\tret", "control"),
            ("sec\nret", "control"),
            ("sec\0ret", "control"),
            ("sec\u{7f}ret", "control"),
            ("sec\u{85}ret", "control"),
            ("\u{feff}secret", "byte order mark"),
        ] {
            for kind in KINDS {
                let refused = kind.read("THE_NAME", text).unwrap_err();
                assert!(refused.starts_with("THE_NAME ") && refused.contains(what), "{text:?}: {refused}");
                assert!(!refused.contains("secret"), "{refused}");
            }
        }
    }

    #[test]
    fn a_credential_in_a_header_fits_in_it() {
        let (fits, long) = ("x".repeat(4_096), "x".repeat(4_097));
        for kind in KINDS {
            assert_eq!(kind.read("X", &fits).as_deref(), Ok(&*fits));
            let of_long = kind.read("X", &long);
            assert_eq!(of_long.is_err_and(|why| why.contains("4096 bytes")), kind != JwtSecret, "{kind:?}");
        }
    }

    #[test]
    fn only_a_credential_in_a_header_must_be_ascii() {
        for text in ["schlüssel", "鍵", "key\u{200b}"] {
            assert!(AdminToken.read("X", text).unwrap_err().contains("ASCII"), "{text}");
            assert_eq!(JwtSecret.read("X", text).as_deref(), Ok(text));
            assert_eq!(JwtClaim.read("X", text).as_deref(), Ok(text));
        }
    }
}
