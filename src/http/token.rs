//! Verifies user tokens. An error is a sentence that names the rule that the token breaks. The crate `jsonwebtoken`
//! verifies the signature and the claims; this file checks the header.

use std::time::Duration;

use anyhow::ensure;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::{self, CredentialSettings};
use crate::domain::UserId;

pub struct TokenRules {
    key: DecodingKey,
    validation: Validation,
}

/// A token whose signature was verified.
#[derive(Clone)]
pub struct Verified {
    pub user: UserId,
    /// Seconds since 1970.
    not_before: f64,
    expires_at: f64,
}

impl Verified {
    /// Whether a verified token is still within its time.
    pub fn is_in_time(&self) -> bool {
        let leeway = Duration::from_secs(config::JWT_LEEWAY_SECONDS).as_secs_f64();
        let now = seconds_now();
        self.not_before <= now + leeway && now <= self.expires_at + leeway
    }
}

/// Members of the header that decide how the token is read; each may appear once. Other members (`typ`, `kid`, `jwk`,
/// `x5u`, …) are ignored, since the key is always this server's.
#[derive(Deserialize)]
struct Header {
    #[serde(default)]
    alg: Value,
    #[serde(default, deserialize_with = "present")]
    crit: Option<Value>,
    #[serde(default, deserialize_with = "present")]
    b64: Option<Value>,
}

/// The claims that are checked; each may appear once.
#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    exp: Value,
    #[serde(default)]
    nbf: Value,
    #[serde(default, rename = "aud")]
    _aud: Value,
    #[serde(default, rename = "iss")]
    _iss: Value,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl TokenRules {
    pub fn new(credentials: &CredentialSettings) -> anyhow::Result<Self> {
        let secret = credentials.jwt_secret.as_deref().unwrap_or_default();
        let least = config::JWT_SECRET_MIN_BYTES;
        ensure!(
            secret.len() >= least,
            "the JWT secret has {} bytes: give SECKILL_JWT_SECRET, or the file jwt-secret, at least {least}",
            secret.len()
        );
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = config::JWT_LEEWAY_SECONDS;
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(audience) = &credentials.jwt_audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        } else {
            validation.validate_aud = false;
        }
        if let Some(issuer) = &credentials.jwt_issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        Ok(Self { key: DecodingKey::from_secret(secret.as_bytes()), validation })
    }

    /// # Errors
    /// When the token breaks a rule; the sentence names the rule.
    pub fn verify(&self, token: &str) -> Result<Verified, String> {
        check_header(token)?;
        let decoded = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation);
        let claims = decoded.map_err(|error| self.refusal(error.kind(), token))?.claims;
        let user = claims.sub.as_str().ok_or("the token's sub is not text")?;
        let user = user.parse().map_err(|error| format!("the token's sub: {error}"))?;
        Ok(Verified {
            user,
            not_before: claims.nbf.as_f64().unwrap_or(f64::MIN),
            expires_at: claims.exp.as_f64().ok_or("the token's exp is not a number")?,
        })
    }

    fn refusal(&self, kind: &ErrorKind, token: &str) -> String {
        // The crate verifies the signature before it checks a claim.
        let time = |claim: fn(&Claims) -> &Value| {
            let claims = jsonwebtoken::dangerous::insecure_decode::<Claims>(token);
            claims.map_or_else(|_| String::new(), |token| instant(claim(&token.claims).as_f64()))
        };
        let (now, leeway) = (instant(Some(seconds_now())), self.validation.leeway);
        match kind {
            ErrorKind::ExpiredSignature => format!(
                "the token expired at {}; this server's clock says {now}, and {leeway} s are allowed for clocks",
                time(|claims| &claims.exp)
            ),
            ErrorKind::ImmatureSignature => format!(
                "the token is valid from {} on (nbf); this server's clock says {now}, and {leeway} s are allowed \
                 for clocks",
                time(|claims| &claims.nbf)
            ),
            ErrorKind::InvalidSignature => "the token was not signed with this server's secret".into(),
            ErrorKind::InvalidAudience => "the token is for another audience (aud)".into(),
            ErrorKind::InvalidIssuer => "the token is of another issuer (iss)".into(),
            ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
                let expected = if matches!(claim.as_str(), "exp" | "nbf") {
                    "a number of seconds since 1970"
                } else {
                    "text"
                };
                format!("the token's {claim} is missing or is not {expected}")
            }
            _ => "the token cannot be read: its payload must be a JSON object with each claim once".into(),
        }
    }
}

/// Refuses critical extensions (RFC 7515, 4.1.11), and a payload that is not base64url (RFC 7797).
fn check_header(token: &str) -> Result<(), String> {
    let parts: Vec<&str> = token.split('.').collect();
    let [header, _, _] = parts[..] else {
        return Err("the token is not three parts with dots between them".into());
    };
    let header = URL_SAFE_NO_PAD.decode(header).ok();
    let header = header.and_then(|json| serde_json::from_slice::<Header>(&json).ok());
    let Some(Header { alg, crit, b64 }) = header else {
        return Err(
            "the token's header cannot be read: it must be a JSON object with each member once".into()
        );
    };
    if alg != "HS256" {
        return Err("the token's alg is not HS256".into());
    }
    if crit.is_some() {
        return Err("the token's header requires an extension (crit), and this server supports none".into());
    }
    if b64.is_some_and(|b64| b64 != true) {
        return Err("the token's payload is not base64url (b64)".into());
    }
    Ok(())
}

fn seconds_now() -> f64 {
    let now = OffsetDateTime::now_utc();
    (now - OffsetDateTime::UNIX_EPOCH).as_seconds_f64()
}

/// Seconds since 1970 as a time; `None` if it is out of range.
fn instant(seconds: Option<f64>) -> String {
    let whole = seconds.map_or(0.0, f64::floor);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what is beyond an i64 becomes its limit, which is no time"
    )]
    let time = OffsetDateTime::from_unix_timestamp(whole as i64).ok();
    let text = time.and_then(|time| time.format(&Rfc3339).ok());
    text.unwrap_or_else(|| format!("second {whole:.0} since 1970"))
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, encode};
    use serde_json::json;

    use super::*;

    const SECRET: &str = "a secret that is long enough for a test";

    fn rules() -> TokenRules {
        let credentials = CredentialSettings {
            admin_token: None,
            jwt_secret: Some(SECRET.into()),
            jwt_audience: None,
            jwt_issuer: None,
        };
        TokenRules::new(&credentials).unwrap()
    }

    fn now() -> i64 {
        OffsetDateTime::now_utc().unix_timestamp()
    }

    /// A token of any header and payload, well signed.
    fn signed(header: &str, payload: &str) -> String {
        let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature = jsonwebtoken::crypto::sign(message.as_bytes(), &key, Algorithm::HS256).unwrap();
        format!("{message}.{signature}")
    }

    fn good_payload() -> String {
        json!({"sub": "alice", "exp": now() + 600}).to_string()
    }

    #[rstest::rstest]
    #[case(r#"{"alg":"HS256"}"#)]
    #[case(r#"{"alg":"HS256","typ":"JWT"}"#)]
    #[case(r#"{"alg":"HS256","typ":"jwt","cty":"x"}"#)]
    #[case(r#"{"alg":"HS256","typ":"at+jwt","kid":"7"}"#)]
    #[case(r#"{"alg":"HS256","b64":true}"#)]
    #[case(r#"{"alg":"HS256","x5u":"http://127.0.0.1:1/","jku":"http://127.0.0.1:1/"}"#)]
    #[case(r#"{"alg":"HS256","unknown":{"a":1}}"#)]
    fn header_members_without_effect_are_accepted(#[case] header: &str) {
        assert_eq!(rules().verify(&signed(header, &good_payload())).unwrap().user.as_str(), "alice");
    }

    #[rstest::rstest]
    #[case(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, "crit")]
    #[case(r#"{"alg":"HS256","crit":["http://example.com/x"],"http://example.com/x":1}"#, "crit")]
    #[case(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, "crit")]
    #[case(r#"{"alg":"HS256","crit":["b64"],"b64":true}"#, "crit")]
    #[case(r#"{"alg":"HS256","crit":[]}"#, "crit")]
    #[case(r#"{"alg":"HS256","crit":null}"#, "crit")]
    #[case(r#"{"alg":"HS256","crit":"exp"}"#, "crit")]
    #[case(r#"{"alg":"HS256","b64":false}"#, "b64")]
    #[case(r#"{"alg":"HS256","b64":"false"}"#, "b64")]
    #[case(r#"{"alg":"HS256","b64":null}"#, "b64")]
    #[case(r#"{"alg":"none"}"#, "HS256")]
    #[case(r#"{"alg":"None"}"#, "HS256")]
    #[case(r#"{"alg":"hs256"}"#, "HS256")]
    #[case(r#"{"alg":"HS512"}"#, "HS256")]
    #[case(r#"{"alg":"RS256"}"#, "HS256")]
    #[case(r#"{"alg":["HS256"]}"#, "HS256")]
    #[case(r#"{"alg":null}"#, "HS256")]
    #[case(r"{}", "HS256")]
    #[case(r#"{"alg":"none","alg":"HS256"}"#, "each member once")]
    #[case(r#"{"alg":"HS256","crit":["x"],"crit":[]}"#, "each member once")]
    #[case(r#"["HS256"]"#, "")]
    #[case("", "each member once")]
    #[case("HS256", "each member once")]
    #[case(r#"{"alg":"HS256","typ":7}"#, "")]
    fn a_header_that_asks_for_more_than_hs256_is_refused(#[case] header: &str, #[case] why: &str) {
        let refusal = rules().verify(&signed(header, &good_payload())).err().unwrap();
        assert!(refusal.contains(why), "{header}: {refusal}");
    }

    #[rstest::rstest]
    #[case(r#"{"sub":"alice","sub":"bob","exp":EXP}"#, "each claim once")]
    #[case(r#"{"sub":"alice","exp":1,"exp":EXP}"#, "each claim once")]
    #[case(r#"{"sub":"alice","exp":EXP,"nbf":9999999999,"nbf":1}"#, "each claim once")]
    #[case(r#"{"sub":"alice","exp":EXP,"aud":"x","aud":"y"}"#, "each claim once")]
    #[case(r#"{"sub":"alice"}"#, "the token's exp is missing")]
    #[case(r#"{"sub":"alice","exp":"EXP"}"#, "exp is missing or is not a number of seconds")]
    #[case(r#"{"sub":"alice","exp":null}"#, "exp is missing or is not a number")]
    #[case(r#"{"sub":"alice","exp":true}"#, "exp is missing or is not a number")]
    #[case(r#"{"sub":"alice","exp":-1}"#, "exp is missing or is not a number")]
    #[case(r#"{"sub":"alice","exp":1e300}"#, "exp is missing or is not a number")]
    #[case(r#"{"sub":"alice","exp":1e400}"#, "cannot be read")]
    #[case(r#"{"sub":"alice","exp":EXP,"nbf":"now"}"#, "nbf is missing or is not a number")]
    #[case(r#"{"exp":EXP}"#, "sub is missing or is not text")]
    #[case(r#"{"sub":7,"exp":EXP}"#, "sub is missing or is not text")]
    #[case(r#"{"sub":"","exp":EXP}"#, "a user id is 1 to 128 bytes")]
    #[case("[]", "cannot be read")]
    fn a_payload_that_is_not_clear_is_refused(#[case] payload: &str, #[case] why: &str) {
        let payload = payload.replace("EXP", &(now() + 600).to_string());
        let refusal = rules().verify(&signed(r#"{"alg":"HS256"}"#, &payload)).err().unwrap();
        assert!(refusal.contains(why), "{payload}: {refusal}");
    }

    #[test]
    fn a_time_may_have_a_fraction_and_lie_far_ahead() {
        for exp in ["EXP.5", "99999999999", "18446744073709551615", "1e15"] {
            let payload =
                format!(r#"{{"sub":"alice","exp":{exp}}}"#).replace("EXP", &(now() + 600).to_string());
            let verified = rules().verify(&signed(r#"{"alg":"HS256"}"#, &payload)).map_err(|why| why + exp);
            assert!(verified.unwrap().is_in_time(), "{exp}");
        }
    }

    #[test]
    fn a_token_out_of_time_is_refused_with_both_times() {
        let rules = rules();
        let at = |seconds: i64| instant(Some(f64::from(i32::try_from(seconds).unwrap())));
        let expired = signed(r#"{"alg":"HS256"}"#, &json!({"sub": "alice", "exp": now() - 600}).to_string());
        let (before, refusal, after) = (now(), rules.verify(&expired).err().unwrap(), now());
        assert!(refusal.starts_with("the token expired at 20"), "{refusal}");
        let says_now = |text: &str| {
            (before..=after).any(|second| text.contains(&format!("this server's clock says {}", at(second))))
        };
        assert!(says_now(&refusal), "{refusal}");
        let early = json!({"sub": "alice", "exp": now() + 900, "nbf": now() + 600}).to_string();
        let refusal = rules.verify(&signed(r#"{"alg":"HS256"}"#, &early)).err().unwrap();
        assert!(
            refusal.contains("is valid from 20") && refusal.contains("this server's clock says"),
            "{refusal}"
        );
        let lib = encode(
            &jsonwebtoken::Header::default(),
            &json!({"sub": "alice", "exp": now() - 30, "nbf": now() + 30}),
            &EncodingKey::from_secret(SECRET.as_bytes()),
        );
        assert!(rules.verify(&lib.unwrap()).unwrap().is_in_time(), "60 s are allowed for clocks");
    }

    #[test]
    fn a_verified_token_ends_with_its_time() {
        let verified =
            Verified { user: "alice".parse().unwrap(), not_before: f64::MIN, expires_at: seconds_now() };
        let ended = |seconds: f64| Verified { expires_at: seconds_now() - seconds, ..verified.clone() };
        assert!(ended(30.0).is_in_time() && !ended(90.0).is_in_time());
        let begins = |seconds: f64| Verified { not_before: seconds_now() + seconds, ..verified.clone() };
        assert!(begins(30.0).is_in_time() && !begins(90.0).is_in_time(), "this machine's clock was set back");
    }
}
