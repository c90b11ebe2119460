//! SaslHandshake 0-1 and SaslAuthenticate 0-2: there are no mechanisms yet, and who asks is told so.

use super::super::{Door, error_code::ErrorCode};
use crate::codec::messages::sasl_authenticate::{SaslAuthenticateRequest, SaslAuthenticateResponse};
use crate::codec::messages::sasl_handshake::{SaslHandshakeRequest, SaslHandshakeResponse};

pub(super) async fn handshake(_door: Door, _version: i16, _request: SaslHandshakeRequest) -> SaslHandshakeResponse {
    SaslHandshakeResponse { error_code: ErrorCode::UnsupportedSaslMechanism.code(), mechanisms: Vec::new() }
}

pub(super) async fn authenticate(
    _door: Door,
    _version: i16,
    _request: SaslAuthenticateRequest,
) -> SaslAuthenticateResponse {
    SaslAuthenticateResponse {
        error_code: ErrorCode::IllegalSaslState.code(),
        error_message: Some("this server has no SASL mechanisms; connect with PLAINTEXT".to_owned()),
        ..SaslAuthenticateResponse::default()
    }
}
