//! Many subscriptions, produce and queues on one socket.

use crate::http::AppState;
use utoipa_axum::router::OpenApiRouter;

/// The routes.
pub fn routes() -> OpenApiRouter<AppState> {
    OpenApiRouter::default()
}
