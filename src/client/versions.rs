//! Which version of each request to use with a broker. Pure.

use crate::codec::messages::{ApiKey, api_versions::ApiVersionsResponse};
use std::collections::BTreeMap;

/// The versions that a broker speaks, of the requests that we speak.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Versions(BTreeMap<ApiKey, (i16, i16)>);

impl Versions {
    /// From the broker's answer. Requests that we do not know are left out.
    pub(super) fn new(response: &ApiVersionsResponse) -> Self {
        let known = response
            .api_keys
            .iter()
            .filter_map(|one| ApiKey::from_key(one.api_key).map(|api| (api, (one.min_version, one.max_version))));
        Self(known.collect())
    }

    /// The newest version that both sides speak.
    pub(super) fn pick(&self, api: ApiKey) -> Option<i16> {
        let (min, max) = *self.0.get(&api)?;
        let ours = api.versions();
        let newest = max.min(*ours.end());
        (newest >= min.max(*ours.start())).then_some(newest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::messages::api_versions::ApiVersion;

    fn versions(list: &[(i16, i16, i16)]) -> Versions {
        let api_keys =
            list.iter().map(|&(api_key, min_version, max_version)| ApiVersion { api_key, min_version, max_version });
        Versions::new(&ApiVersionsResponse { api_keys: api_keys.collect(), ..Default::default() })
    }

    #[test]
    fn the_newest_that_both_speak_is_taken() {
        let ours = *ApiKey::Fetch.versions().end();
        assert_eq!(versions(&[(1, 0, 6)]).pick(ApiKey::Fetch), Some(6));
        assert_eq!(versions(&[(1, 0, ours + 5)]).pick(ApiKey::Fetch), Some(ours));
        assert_eq!(versions(&[(1, ours, ours + 5)]).pick(ApiKey::Fetch), Some(ours));
    }

    #[test]
    fn nothing_in_common_is_nothing() {
        let ours = *ApiKey::Fetch.versions().end();
        assert_eq!(versions(&[(1, ours + 1, ours + 5)]).pick(ApiKey::Fetch), None);
        assert_eq!(versions(&[(1, 0, 1)]).pick(ApiKey::Fetch), None, "older than the oldest that we read");
        assert_eq!(versions(&[(0, 0, 9)]).pick(ApiKey::Fetch), None);
        assert_eq!(versions(&[(1, 6, 4)]).pick(ApiKey::Fetch), None, "a broker that makes no sense");
    }
}
