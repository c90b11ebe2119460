//! AlterConfigs, key 33, versions 0 to 2, flexible from 2.

use super::messages;

messages! {
    AlterConfigs (AlterConfigsRequest => AlterConfigsResponse)
    AlterConfigsRequest {
        resources: Vec<AlterConfigsResource> [0..],
        validate_only: bool [0..],
    }
    AlterConfigsResource {
        resource_type: i8 [0..],
        resource_name: String [0..],
        configs: Vec<AlterableConfig> [0..],
    }
    AlterableConfig {
        name: String [0..],
        value: Option<String> [0..],
    }
    AlterConfigsResponse {
        throttle_time_ms: i32 [0..],
        responses: Vec<AlterConfigsResourceResponse> [0..],
    }
    AlterConfigsResourceResponse {
        error_code: i16 [0..],
        error_message: Option<String> [0..],
        resource_type: i8 [0..],
        resource_name: String [0..],
    }
}
