//! The demo's sample coupons, made by the same functions as the API's, and the text that shows how to claim them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use time::OffsetDateTime;

use crate::cli::ServeArgs;
use crate::cli::demo::{DemoText, demo_text};
use crate::cli::token::mint_token;
use crate::config::{self, CredentialSettings};
use crate::coupons::definitions::{CouponError, ExpectedVersion};
use crate::data_dir::DataDir;
use crate::domain::{CouponPatch, NewCoupon, Origin, UserId};
use crate::http::Api;
use crate::http::sign_in::DemoSignIn;

const USERS: [&str; 3] = ["alice", "bob", "carol"];

/// Waits until claims are accepted, makes the coupons, and returns the text.
pub async fn open(
    api: &Api,
    args: &ServeArgs,
    address: SocketAddr,
    credentials: &CredentialSettings,
) -> anyhow::Result<String> {
    api.partitions.wait_until_up().await;
    let opens = OffsetDateTime::now_utc() + config::DEMO_OPENS_AFTER;
    offer(api, sample("coffee", "A free coffee", 100, None)?).await?;
    offer(api, sample("tea", "A pot of tea", 100, Some(opens))?).await?;
    let ticket = NewCoupon {
        reserve_seconds: Some(config::DEMO_RESERVE_SECONDS),
        ..sample("ticket", "A concert ticket", 50, None)?
    };
    offer(api, ticket).await?;
    let gone = NewCoupon { waitlist: true, ..sample("gone", "The last biscuit", 1, None)? };
    let id = gone.id.clone();
    offer(api, gone).await?;
    api.partitions
        .claim(&id, &"demo".parse()?, None, Duration::ZERO)
        .await
        .context("the demo's own claim")?;

    let credentials = credentials.clone();
    let mint = move |user: &UserId| {
        let secret = credentials.jwt_secret.as_deref().unwrap_or_default();
        mint_token(secret.as_bytes(), user, config::DEMO_TOKEN_LIFETIME, &credentials)
    };
    let token = mint(&USERS[0].parse()?)?;
    let sign_in = DemoSignIn { users: &USERS, mint: Box::new(mint) };
    api.demo.set(sign_in).map_err(|_| anyhow!("the demo is opened once"))?;
    Ok(demo_text(&DemoText {
        base_url: &format!("http://{address}"),
        user: USERS[0],
        user_token: &token,
        stores: &args.stores,
        data_dir: &DataDir::locate(args.stores.data_dir.as_deref()),
        admin_token_generated: args.credentials.admin_token.is_none(),
    }))
}

fn sample(id: &str, title: &str, total: i64, starts_at: Option<OffsetDateTime>) -> anyhow::Result<NewCoupon> {
    Ok(NewCoupon {
        id: id.parse()?,
        title: Some(title.into()),
        total,
        starts_at,
        ends_at: None,
        per_user_limit: None,
        reserve_seconds: None,
        durability: None,
        waitlist: false,
        unlisted: false,
        spread: None,
    })
}

/// Makes a coupon, or sets a new `starts_at` if an earlier demo made the coupon.
async fn offer(api: &Api, coupon: NewCoupon) -> anyhow::Result<()> {
    let patch = CouponPatch { starts_at: Some(coupon.starts_at), ..CouponPatch::default() };
    let (id, origin) = (coupon.id.clone(), Origin::system(None));
    match api.partitions.create(coupon, &origin).await {
        Ok(_) => Ok(()),
        Err(CouponError::Exists(_)) => {
            api.partitions.edit(&id, &patch, &ExpectedVersion::Any, &origin).await?;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}
