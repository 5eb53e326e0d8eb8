//! Requests made ready before the clock starts, each with its user's own signed token.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Signed tokens of users `user-0`, `user-1`, …
pub struct Users {
    tokens: Vec<String>,
}

/// Whole HTTP/1.1 requests in one piece of memory, handed out one by one.
pub struct Requests {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    next: AtomicUsize,
    /// Begins again after the last one.
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

    /// Claims of the given users, for each the coupon that `coupon` names.
    pub fn claims<'a>(
        &self,
        users: impl IntoIterator<Item = usize>,
        coupon: impl Fn(usize) -> &'a str,
    ) -> Requests {
        self.claims_with(users, coupon, |_| "")
    }

    /// The same with header lines of their own.
    pub fn claims_with<'a>(
        &self,
        users: impl IntoIterator<Item = usize>,
        coupon: impl Fn(usize) -> &'a str,
        headers: impl Fn(usize) -> &'static str,
    ) -> Requests {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for user in users {
            let (coupon, token, more) = (coupon(user), &self.tokens[user], headers(user));
            bytes.extend_from_slice(
                format!(
                    "POST /v1/coupons/{coupon}/claims HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {token}\r\n{more}\
                     content-length: 0\r\n\r\n"
                )
                .as_bytes(),
            );
            ends.push(bytes.len());
        }
        Requests { bytes, ends, next: AtomicUsize::new(0), is_endless: false }
    }
}

impl Requests {
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
