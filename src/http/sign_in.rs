//! How a visitor of the storefront signs in. Only `demo` gives tokens to anyone who asks; otherwise the shop's own sign-in
//! makes them.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::answer::json;
use super::problem::{Answer, Code, Problem};
use super::request::Request;
use super::shapes;
use crate::domain::UserId;

type Mint = Box<dyn Fn(&UserId) -> anyhow::Result<String> + Send + Sync>;

/// Makes the tokens of the demo's users.
pub struct DemoSignIn {
    /// Users that the storefront offers.
    pub users: &'static [&'static str],
    /// Signs a token for any user.
    pub mint: Mint,
}

#[derive(Serialize, ToSchema)]
#[schema(as = SignIn)]
pub struct SignInView {
    /// Whether `POST /v1/sign-in` gives tokens.
    demo: bool,
    /// Users that the storefront offers.
    users: &'static [&'static str],
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SignInRequest)]
pub struct SignIn {
    #[schema(schema_with = shapes::user)]
    user: UserId,
}

#[derive(Serialize, ToSchema)]
pub struct SignedIn {
    user: UserId,
    /// The bearer token.
    token: String,
}

/// `GET /v1/sign-in`: whether this is a demo, and the users that it offers.
pub fn show(api: &Api) -> Answer {
    let users = api.demo.get().map(|demo| demo.users);
    Ok(json(StatusCode::OK, &SignInView { demo: users.is_some(), users: users.unwrap_or_default() }))
}

/// `POST /v1/sign-in` `{"user"}`: a token, in a demo.
pub async fn sign_in(api: Arc<Api>, mut request: Request) -> Answer {
    let demo = api.demo.get().ok_or_else(|| {
        let why = "only a demo signs users in: send a token that your own sign-in has made (`seckill token` makes one)";
        Problem::new(Code::NotFound, why)
    })?;
    let SignIn { user } = request.json().await?;
    let token = (demo.mint)(&user).map_err(|error| {
        tracing::error!("no token for the demo: {error:#}");
        Problem::new(Code::Internal, "the token could not be made; the log says why")
    })?;
    Ok(json(StatusCode::OK, &SignedIn { user, token }))
}
