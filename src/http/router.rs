//! All routes, and what all share.

use super::{AppState, api, problem::Problem};
use axum::Router;
use utoipa_axum::router::OpenApiRouter;

/// Every route with its document.
pub(crate) fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::default().merge(api::records::routes()).merge(api::stream::routes()).merge(api::ws::routes())
}

/// The whole door as a service.
#[must_use]
pub fn router(state: AppState) -> Router {
    let (router, _document) = documented().split_for_parts();
    router.fallback(not_found).with_state(state)
}

async fn not_found(uri: axum::http::Uri) -> Problem {
    Problem::not_found(format!("there is no route {}; see /openapi.json or /docs", uri.path()))
}
