//! SaslHandshake, key 17, versions 0 to 1, never flexible.

use super::messages;

messages! {
    SaslHandshake (SaslHandshakeRequest => SaslHandshakeResponse)
    SaslHandshakeRequest {
        mechanism: String [0..],
    }
    SaslHandshakeResponse {
        error_code: i16 [0..],
        mechanisms: Vec<String> [0..],
    }
}
