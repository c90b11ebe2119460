//! DescribeConfigs, key 32, versions 1 to 4, flexible from 4.

use super::messages;

messages! {
    DescribeConfigs (DescribeConfigsRequest => DescribeConfigsResponse)
    DescribeConfigsRequest {
        resources: Vec<DescribeConfigsResource> [0..],
        include_synonyms: bool [0..],
        include_documentation: bool [3..],
    }
    DescribeConfigsResource {
        resource_type: i8 [0..],
        resource_name: String [0..],
        configuration_keys: Option<Vec<String>> [0..],
    }
    DescribeConfigsResponse {
        throttle_time_ms: i32 [0..],
        results: Vec<DescribeConfigsResult> [0..],
    }
    DescribeConfigsResult {
        error_code: i16 [0..],
        error_message: Option<String> [0..],
        resource_type: i8 [0..],
        resource_name: String [0..],
        configs: Vec<DescribeConfigsResourceResult> [0..],
    }
    DescribeConfigsResourceResult {
        name: String [0..],
        value: Option<String> [0..],
        read_only: bool [0..],
        config_source: i8 [0..] = -1,
        is_sensitive: bool [0..],
        synonyms: Vec<DescribeConfigsSynonym> [0..],
        config_type: i8 [3..],
        documentation: Option<String> [3..],
    }
    DescribeConfigsSynonym {
        name: String [0..],
        value: Option<String> [0..],
        source: i8 [0..],
    }
}
