//! Requests that are prepared before a measurement starts. Each has the signed token of a different user.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::domain::OrderId;

/// Signed tokens of users `user-0`, `user-1`, …
pub struct Users {
    tokens: Vec<String>,
}

/// Whole HTTP/1.1 requests in one buffer, taken one by one by all connections.
pub struct Requests {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    next: AtomicUsize,
    /// Whether to start again after the last request.
    is_endless: bool,
}

impl Users {
    pub fn new(count: usize, mint: impl Fn(&str) -> anyhow::Result<String>) -> anyhow::Result<Self> {
        let tokens = (0..count).map(|number| mint(&format!("user-{number}"))).collect::<Result<_, _>>()?;
        Ok(Self { tokens })
    }

    pub fn count(&self) -> usize {
        self.tokens.len()
    }

    /// A claim of each user; `coupon` gives the coupon for a user.
    pub fn claims<'a>(
        &self,
        users: impl IntoIterator<Item = usize>,
        coupon: impl Fn(usize) -> &'a str,
    ) -> Requests {
        self.claims_with(users, coupon, |_| "")
    }

    /// Like `claims`; `headers` gives additional header lines for a user.
    pub fn claims_with<'a>(
        &self,
        users: impl IntoIterator<Item = usize>,
        coupon: impl Fn(usize) -> &'a str,
        headers: impl Fn(usize) -> &'static str,
    ) -> Requests {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for user in users {
            bytes.extend_from_slice(self.claim(user, coupon(user), headers(user)).as_bytes());
            ends.push(bytes.len());
        }
        Requests { bytes, ends, next: AtomicUsize::new(0), is_endless: false }
    }

    /// One claim as text; `headers` are whole lines with their line ends.
    pub fn claim(&self, user: usize, coupon: &str, headers: &str) -> String {
        let token = &self.tokens[user];
        format!(
            "POST /v1/coupons/{coupon}/claims HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n{headers}\
             content-length: 0\r\n\r\n"
        )
    }

    /// The confirm of a user's order as text.
    pub fn confirm(&self, user: usize, order: OrderId) -> String {
        let token = &self.tokens[user];
        format!(
            "POST /v1/orders/{order}/confirm HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n\
             content-length: 0\r\n\r\n"
        )
    }
}

impl Requests {
    /// Repeats the requests without end.
    pub fn endless(self) -> Self {
        Self { is_endless: true, ..self }
    }

    /// The next request with its number, from 0.
    pub fn take(&self) -> Option<(usize, &[u8])> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let place = if self.is_endless { number % self.ends.len().max(1) } else { number };
        let end = *self.ends.get(place)?;
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some((number, &self.bytes[start..end]))
    }
}

#[cfg(test)]
mod tests {
    use super::Users;

    #[test]
    fn every_request_is_taken_once_or_again_and_again() -> anyhow::Result<()> {
        let users = Users::new(3, |user| Ok(format!("token-of-{user}")))?;
        let claims = users.claims(1..3, |_| "tea");
        let texts: Vec<String> = std::iter::from_fn(|| claims.take())
            .map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
            .collect();
        assert_eq!(texts.len(), 2);
        for (text, user) in texts.iter().zip(["user-1", "user-2"]) {
            assert!(text.starts_with("POST /v1/coupons/tea/claims HTTP/1.1\r\n"), "{text}");
            assert!(text.contains(&format!("Bearer token-of-{user}\r\n")), "{text}");
            assert!(text.ends_with("\r\n\r\n"), "{text}");
        }
        let endless = users.claims(0..3, |_| "tea").endless();
        let numbers: Vec<usize> =
            std::iter::from_fn(|| endless.take()).map(|(number, _)| number).take(7).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
        Ok(())
    }
}
