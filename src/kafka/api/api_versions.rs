//! ApiVersions 0-4 (KIP-511): what this door speaks.
//!
//! Produce is listed from version 0, though it is answered from 3 on: librdkafka takes a higher first version as a sign of
//! a broker without compression (KAFKA-18659).

use super::super::{Door, error_code::ErrorCode};
use super::OFFERED;
use crate::codec::messages::ApiKey;
use crate::codec::messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};

pub(super) async fn answer(_door: Door, _version: i16, _request: ApiVersionsRequest) -> ApiVersionsResponse {
    ApiVersionsResponse { api_keys: offered(), ..ApiVersionsResponse::default() }
}

/// The answer to a version that we do not know: always in version 0, so that any client can read it.
pub(super) fn unsupported() -> ApiVersionsResponse {
    let error_code = ErrorCode::UnsupportedVersion.code();
    ApiVersionsResponse { error_code, api_keys: offered(), ..ApiVersionsResponse::default() }
}

fn offered() -> Vec<ApiVersion> {
    let version = |api: &ApiKey| ApiVersion {
        api_key: api.key(),
        min_version: if *api == ApiKey::Produce { 0 } else { *api.versions().start() },
        max_version: *api.versions().end(),
    };
    OFFERED.iter().map(version).collect()
}
