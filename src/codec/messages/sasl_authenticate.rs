//! SaslAuthenticate, key 36, versions 0 to 2, flexible from 2.

use super::messages;
use bytes::Bytes;

messages! {
    SaslAuthenticate (SaslAuthenticateRequest => SaslAuthenticateResponse)
    SaslAuthenticateRequest {
        auth_bytes: Bytes [0..],
    }
    SaslAuthenticateResponse {
        error_code: i16 [0..],
        error_message: Option<String> [0..],
        auth_bytes: Bytes [0..],
        session_lifetime_ms: i64 [1..],
    }
}
