//! Reading pages, a record's permalink, a key's latest record.

use crate::http::AppState;
use utoipa_axum::router::OpenApiRouter;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
