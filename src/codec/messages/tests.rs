use super::*;
use crate::codec::MEMORY_PER_BYTE;
use crate::codec::fuzz_tests::{Arbitrary, Source, exact, fuzz, peak_bytes};
use proptest::prelude::*;

/// Reads bytes as a message and checks that writing it and reading that again gives the same.
fn read_and_write<M: Message + PartialEq + fmt::Debug>(version: i16, bytes: &[u8]) -> bool {
    let Ok(message) = M::decode(Bytes::copy_from_slice(bytes), version) else { return false };
    let written = encode_response(version, 7, &message).body();
    let header = 4 + usize::from(M::API.has_flexible_response_header(version));
    let again = M::decode(written.slice(header..), version).expect("what we write, we read");
    // A NaN is not equal to itself; nothing else in a message is like that, and its text is.
    assert_eq!(format!("{message:?}"), format!("{again:?}"), "version {version}");
    true
}

/// A message's default in each of its versions, and what a request's and a response's headers look like around it.
fn round_trips<R: Request + PartialEq + fmt::Debug>()
where
    R::Response: PartialEq + fmt::Debug,
{
    for version in R::API.versions() {
        let frame = encode_request(version, 42, Some("me"), &R::default());
        let mut body = frame.body();
        assert_eq!(body.len() + 4, frame.len());
        let header = RequestHeader::split_from(&mut body).unwrap();
        let expected =
            RequestHeader { api_key: R::API.key(), version, correlation_id: 42, client_id: Some("me".to_owned()) };
        assert_eq!(header, expected);
        assert_eq!(R::decode(body, version).unwrap(), R::default(), "{} {version}", R::API);
        let response = encode_response(version, -3, &R::Response::default()).body();
        assert_eq!(decode_response::<R>(response, version).unwrap(), (-3, R::Response::default()));
    }
    let beyond = R::API.versions().end() + 1;
    assert!(R::decode(Bytes::new(), beyond).is_err());
}

fn made<R: Request + Arbitrary>(source: &mut Source) -> Bytes {
    let version = source.pick(&R::API.versions().collect::<Vec<_>>());
    let client = source.pick(&["fuzz", "other"]);
    encode_request(version, source.below(9) as i32, Some(client), &R::arbitrary(source)).body()
}

macro_rules! every_request {
    ($($module:ident::$request:ident,)*) => {
        #[test]
        fn defaults_survive_their_bytes() {
            let requests = [$(<$module::$request as Message>::API),*];
            assert!(ApiKey::ALL.iter().all(|api| requests.contains(api)), "the list below misses one");
            $(round_trips::<$module::$request>();)*
        }

        /// One for each request.
        const FUZZED: &[fn(&mut Source)] = &[$(fuzz_request::<$module::$request>,)*];

        /// A whole frame of any request, without its length.
        pub(crate) fn any_request(source: &mut Source) -> Bytes {
            const MADE: &[fn(&mut Source) -> Bytes] = &[$(made::<$module::$request>,)*];
            MADE[source.below(MADE.len())](source)
        }

        /// Reads the bytes as everything that they could be; how many they are.
        fn read_as_everything(bytes: &[u8]) -> usize {
            let mut read = 0;
            $(for version in <$module::$request as Message>::API.versions() {
                read += usize::from(read_and_write::<$module::$request>(version, bytes));
                read += usize::from(read_and_write::<<$module::$request as Request>::Response>(version, bytes));
            })*
            read
        }
    };
}

every_request! {
    alter_configs::AlterConfigsRequest,
    api_versions::ApiVersionsRequest,
    create_partitions::CreatePartitionsRequest,
    create_topics::CreateTopicsRequest,
    delete_groups::DeleteGroupsRequest,
    delete_records::DeleteRecordsRequest,
    delete_topics::DeleteTopicsRequest,
    describe_cluster::DescribeClusterRequest,
    describe_configs::DescribeConfigsRequest,
    describe_groups::DescribeGroupsRequest,
    describe_log_dirs::DescribeLogDirsRequest,
    describe_producers::DescribeProducersRequest,
    describe_topic_partitions::DescribeTopicPartitionsRequest,
    fetch::FetchRequest,
    find_coordinator::FindCoordinatorRequest,
    heartbeat::HeartbeatRequest,
    incremental_alter_configs::IncrementalAlterConfigsRequest,
    init_producer_id::InitProducerIdRequest,
    join_group::JoinGroupRequest,
    leave_group::LeaveGroupRequest,
    list_groups::ListGroupsRequest,
    list_offsets::ListOffsetsRequest,
    list_partition_reassignments::ListPartitionReassignmentsRequest,
    metadata::MetadataRequest,
    offset_commit::OffsetCommitRequest,
    offset_delete::OffsetDeleteRequest,
    offset_fetch::OffsetFetchRequest,
    offset_for_leader_epoch::OffsetForLeaderEpochRequest,
    produce::ProduceRequest,
    sasl_authenticate::SaslAuthenticateRequest,
    sasl_handshake::SaslHandshakeRequest,
    sync_group::SyncGroupRequest,
}

/// An array length straight from the wire is what aborts other servers, here with 5 bytes.
#[test]
fn a_count_beyond_the_bytes_allocates_nothing() {
    // Compact, version 9 and later: a count of 2^32 - 2, and nothing after it.
    let five = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
    for version in 9..=13 {
        let refused = metadata::MetadataRequest::decode(five.clone(), version).unwrap_err();
        assert!(matches!(refused, WireError::TooMany | WireError::Length), "{refused:?}");
    }
    let many = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff, 0]);
    assert_eq!(metadata::MetadataRequest::decode(many, 1), Err(WireError::TooMany));
}

/// As many elements as there are bytes would still be many times the frame in memory.
#[test]
fn memory_is_held_against_the_frame() {
    let count = 1_000_000u32;
    let mut bytes = count.to_be_bytes().to_vec();
    bytes.resize(4 + count as usize, 0);
    let size = size_of::<describe_configs::DescribeConfigsResource>();
    assert!(size > MEMORY_PER_BYTE, "or this test shows nothing");
    assert_eq!(describe_configs::DescribeConfigsRequest::decode(bytes.into(), 1), Err(WireError::TooMany));
}

#[test]
fn known_bytes() {
    let request = produce::ProduceRequest {
        acks: -1,
        timeout_ms: 30_000,
        topic_data: vec![produce::TopicProduceData {
            name: "a".to_owned(),
            partition_data: vec![produce::PartitionProduceData {
                index: 1,
                records: Some(RecordBytes::new(vec![Bytes::from_static(b"xy")])),
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let old = [
        &[0, 0, 0, 44][..],                          // the frame's length
        &[0, 0, 0, 3, 0, 0, 0, 5, 0, 2, b'm', b'e'], // header: key, version, correlation id, client id
        &[0xff, 0xff, 0xff, 0xff, 0, 0, 0x75, 0x30], // no transaction, acks, timeout
        &[0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 1],       // one topic, its name, one partition
        &[0, 0, 0, 1, 0, 0, 0, 2, b'x', b'y'],       // its number, two bytes
    ]
    .concat();
    let frame = encode_request(3, 5, Some("me"), &request).into_parts().concat();
    assert_eq!(frame[4..], old[4..]);
    assert_eq!(frame.len() - 4, usize::from(frame[3]));
    let new = [
        &[0, 0, 0, 9, 0, 0, 0, 5, 0, 2, b'm', b'e', 0][..],
        &[0, 0xff, 0xff, 0, 0, 0x75, 0x30],
        &[2, 2, b'a', 2],
        &[0, 0, 0, 1, 3, b'x', b'y', 0, 0, 0],
    ]
    .concat();
    assert_eq!(encode_request(9, 5, Some("me"), &request).body(), new);
}

#[test]
fn large_parts_are_shared_and_the_length_is_right() {
    let batch = Bytes::from(vec![9; 5000]);
    let data = |n| fetch::PartitionData {
        partition_index: n,
        records: Some(RecordBytes::new(vec![batch.clone(), batch.clone()])),
        ..Default::default()
    };
    let response = fetch::FetchResponse {
        responses: vec![fetch::FetchableTopicResponse { partitions: vec![data(0), data(1)], ..Default::default() }],
        ..Default::default()
    };
    for version in [4, 11, 12, 17] {
        let frame = encode_response(version, 1, &response);
        let (len, body) = (frame.len(), frame.body());
        let parts = frame.into_parts();
        assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), len);
        assert_eq!(parts[0][..4], (len as u32 - 4).to_be_bytes());
        assert_eq!(parts.iter().filter(|part| part.as_ptr() == batch.as_ptr()).count(), 4, "not copied");
        assert_eq!(decode_response::<fetch::FetchRequest>(body, version).unwrap().1, response);
    }
}

#[test]
fn tagged_fields_are_kept_and_unknown_ones_passed_over() {
    let mut request = fetch::FetchRequest { cluster_id: Some("c".to_owned()), ..Default::default() };
    request.replica_state.replica_id = 3;
    let mut body = encode_request(15, 0, None, &request).body();
    RequestHeader::split_from(&mut body).unwrap();
    assert_eq!(fetch::FetchRequest::decode(body, 15).unwrap(), request);
    // Heartbeat 4: three empty texts and a number, a null, then a tag 77 of two bytes.
    let unknown = Bytes::from_static(&[1, 0, 0, 0, 0, 1, 0, 1, 77, 2, 8, 8]);
    assert!(heartbeat::HeartbeatRequest::decode(unknown, 4).is_ok());
}

#[test]
fn of_an_unknown_request_the_beginning_is_read() {
    let mut frame = Bytes::from_static(&[0x7f, 0, 0, 1, 0, 0, 0, 9, 0xff]);
    let header = RequestHeader::split_from(&mut frame).unwrap();
    assert_eq!((header.api(), header.correlation_id, frame.len()), (None, 9, 1));
    let mut newer = Bytes::from_static(&[0, 18, 0, 99, 0, 0, 0, 9]);
    assert_eq!(RequestHeader::split_from(&mut newer).unwrap().version, 99);
    assert_eq!(RequestHeader::split_from(&mut Bytes::from_static(&[0, 18, 0])), Err(WireError::Truncated));
}

/// Bytes that look like messages: mostly small numbers, so that counts and lengths fit and parsing gets far.
fn likely_bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![6 => 0u8..4, 1 => any::<u8>(), 1 => Just(b'a')];
    prop::collection::vec(byte, 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn whatever_is_read_is_written_the_same(bytes in likely_bytes()) {
        read_as_everything(&bytes);
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_as_everything(&bytes);
        let _ = RequestHeader::split_from(&mut Bytes::from(bytes));
    }
}

/// A made-up request with its response, whole and damaged, in any version.
fn fuzz_request<R: Request + Arbitrary + fmt::Debug>(source: &mut Source)
where
    R::Response: Arbitrary + fmt::Debug,
{
    let versions = R::API.versions();
    let version = source.pick(&versions.clone().collect::<Vec<_>>());
    let request = encode_request(version, 7, Some("fuzz"), &R::arbitrary(source)).body();
    let mut body = request.clone();
    RequestHeader::split_from(&mut body).expect("what we write, we read");
    fuzz_message::<R>(source, version, &body);
    let response = encode_response(version, 7, &R::Response::arbitrary(source)).body();
    let header = 4 + usize::from(R::API.has_flexible_response_header(version));
    fuzz_message::<R::Response>(source, version, &response[header..]);
    let mut damaged = request.to_vec();
    source.damage(&mut damaged);
    let mut damaged = exact(&damaged);
    let len = damaged.len();
    let (_, peak) = peak_bytes(|| RequestHeader::split_from(&mut damaged).is_ok());
    assert!(peak <= MEMORY_PER_BYTE * len + SHARING_BYTES, "{peak} bytes for a header in {len}");
}

/// Sharing parts of a message costs a count once, whatever its size.
const SHARING_BYTES: usize = 64;

fn fuzz_message<M: Message + fmt::Debug>(source: &mut Source, version: i16, whole: &[u8]) {
    assert!(read_in_bounds::<M>(version, whole), "{} {version}: what we write, we read", M::API);
    for cut in [0, source.below(whole.len() + 1)] {
        assert!(cut == 0 && whole.is_empty() || !read_in_bounds::<M>(version, &whole[..cut]) || cut == whole.len());
    }
    let mut damaged = whole.to_vec();
    source.damage(&mut damaged);
    read_in_bounds::<M>(version, &damaged);
    // Sent as what it is not.
    let versions = M::API.versions();
    let other = source.pick(&versions.collect::<Vec<_>>());
    read_in_bounds::<M>(other, whole);
    read_in_bounds::<M>(other, &damaged);
}

/// Reads a message within the memory that it may take; one that can be read means the same when it is written again.
fn read_in_bounds<M: Message + fmt::Debug>(version: i16, bytes: &[u8]) -> bool {
    let body = exact(bytes);
    let (read, peak) = peak_bytes(|| M::decode(body.clone(), version));
    assert!(peak <= MEMORY_PER_BYTE * bytes.len() + SHARING_BYTES, "{} {version}: {peak} bytes of {bytes:?}", M::API);
    let Ok(message) = read else { return false };
    let written = encode_response(version, 7, &message).body();
    let header = 4 + usize::from(M::API.has_flexible_response_header(version));
    let again = M::decode(written.slice(header..), version).expect("what we write, we read");
    assert_eq!(format!("{message:?}"), format!("{again:?}"), "{} {version}", M::API);
    true
}

#[test]
fn fuzz_any_message_is_read_within_its_bound() {
    fuzz("messages", 2000, |source| {
        let request = source.below(ApiKey::ALL.len());
        FUZZED[request](source);
    });
}
