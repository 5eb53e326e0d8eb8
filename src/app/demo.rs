//! The demo's sample coupons, made through the same steps as the API's, and the text that tells of them.

use std::net::SocketAddr;
use std::time::Duration;

use time::OffsetDateTime;

use super::Core;
use crate::cli::ServeArgs;
use crate::cli::demo::{DemoText, demo_text};
use crate::cli::token::mint_token;
use crate::config::CredentialSettings;
use crate::data_dir::DataDir;
use crate::fence::publish::publish;
use crate::fence::{FenceState, Session};
use crate::gate::Gate;
use crate::model::{Claim, Definition, OrderId, UserId};
use crate::postgres::coupons;

const USER: &str = "alice";
const TOKEN_LIFETIME: Duration = Duration::from_hours(24);
const OPENS_AFTER: Duration = Duration::from_mins(1);

/// Waits until claims are taken, makes the coupons, answers the text.
pub async fn open(
    core: &Core,
    gate: &Gate,
    args: &ServeArgs,
    address: SocketAddr,
    credentials: &CredentialSettings,
) -> anyhow::Result<String> {
    let mut states = core.fence.subscribe();
    states.wait_for(|state| matches!(state, FenceState::Up(_))).await?;
    let session = core.fence.session().map_err(|reason| anyhow::anyhow!("claims are not taken: {reason}"))?;
    let opens = OffsetDateTime::now_utc() + OPENS_AFTER;
    offer(core, &session, sample("coffee", "A free coffee", 100, None)?).await?;
    offer(core, &session, sample("tea", "A pot of tea", 100, Some(opens))?).await?;
    let gone = sample("gone", "The last biscuit", 1, None)?;
    offer(core, &session, gone.clone()).await?;
    gate.claim(Claim { coupon: gone.id, user: "demo".parse()?, order: OrderId::mint() }).await?;

    let user: UserId = USER.parse()?;
    let secret = credentials.jwt_secret.as_deref().unwrap_or_default();
    let token = mint_token(secret.as_bytes(), &user, TOKEN_LIFETIME, credentials)?;
    Ok(demo_text(&DemoText {
        base_url: &format!("http://{address}"),
        user: USER,
        user_token: &token,
        stores: &args.stores,
        data_dir: &DataDir::locate(args.stores.data_dir.as_deref()),
        admin_token_generated: args.credentials.admin_token.is_none(),
    }))
}

fn sample(
    id: &str,
    title: &str,
    total: i64,
    starts_at: Option<OffsetDateTime>,
) -> anyhow::Result<Definition> {
    Ok(Definition {
        id: id.parse()?,
        title: title.into(),
        total,
        starts_at,
        ends_at: None,
        paused: false,
        per_user_limit: 1,
        reserve_seconds: None,
        unlisted: false,
        version: 1,
    })
}

/// Makes a coupon, or opens the one of an earlier demo anew.
async fn offer(core: &Core, session: &Session, mut definition: Definition) -> anyhow::Result<()> {
    let inserted = coupons::insert(&core.postgres.pool, &definition).await?;
    if !inserted {
        let Some(row) = coupons::get(&core.postgres.pool, &definition.id).await? else { return Ok(()) };
        definition = Definition { starts_at: definition.starts_at, ..row.definition };
        coupons::edit(&core.postgres.pool, &definition).await?;
        definition.version += 1;
    }
    publish(&core.fence, session, &core.postgres, inserted, &definition).await?;
    Ok(())
}
