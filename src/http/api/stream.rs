//! One topic, live, over SSE or WebSocket.

use crate::http::AppState;
use utoipa_axum::router::OpenApiRouter;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
