use super::*;
use proptest::prelude::*;

const LIMITS: RecordLimits = RecordLimits { value_bytes: 1000, headers: 3 };

fn batch(text: &str) -> Result<Vec<Result<RecordToProduce, Problem>>, Problem> {
    parse_batch(&Bytes::copy_from_slice(text.as_bytes()), LIMITS, 5)
}

fn one(text: &str) -> Result<RecordToProduce, Refusal> {
    parse_record(&Bytes::copy_from_slice(text.as_bytes()), LIMITS)
}

fn value(text: &str) -> Bytes {
    one(text).unwrap().record.value.unwrap()
}

#[test]
fn a_value_is_stored_as_it_was_sent() {
    assert_eq!(
        value(r#"{"value": {"n": 1.10, "b":12345678901234567890,"s":"\u0041é"} }"#),
        r#"{"n": 1.10, "b":12345678901234567890,"s":"\u0041é"}"#
    );
    assert_eq!(value(r#"{"value":"text"}"#), r#""text""#);
    assert_eq!(value(r#"{"value":false}"#), "false");
    assert_eq!(value(r#"{"value":[null]}"#), "[null]");
    assert_eq!(value(r#"{"text":"a\n\"b\" \ud83d\ude00"}"#), "a\n\"b\" 😀");
    assert_eq!(value(r#"{"text":""}"#), "");
    assert_eq!(value(r#"{"base64":"AP8="}"#), &[0, 255][..]);
    assert_eq!(value(r#"{"base64":"AP8"}"#), &[0, 255][..]);
    assert_eq!(one(r#"{"key":"k","tombstone":true}"#).unwrap().record.value, None);
}

#[test]
fn a_value_shares_the_bodys_memory() {
    let body = Bytes::from_static(br#"{"key":"plain","value":{"a":1}}"#);
    let record = parse_record(&body, LIMITS).unwrap().record;
    let range = body.as_ptr_range();
    for part in [record.key.unwrap(), record.value.unwrap()] {
        assert!(range.contains(&part.as_ptr()), "{part:?}");
    }
}

#[test]
fn all_fields_are_taken() {
    let text = r#"{"key_base64":"AAE=","value":1,"partition":2,"timestamp_ms":1e3,
        "headers":[{"name":"a","value":"b"},{"value_base64":"/w==","name":"a"},{"name":"none"}]}"#;
    let produced = one(text).unwrap();
    assert_eq!(produced.partition, Some(PartitionId::new(2)));
    let record = produced.record;
    assert_eq!(record.timestamp_ms, Some(1000));
    assert_eq!(record.key.unwrap(), &[0, 1][..]);
    let values: Vec<_> = record.headers.iter().map(|h| h.value.as_deref()).collect();
    assert_eq!(values, [Some(&b"b"[..]), Some(&[255]), None]);
}

#[test]
fn what_can_not_be_understood_is_malformed() {
    for (text, says) in [
        (r#"{"vlaue":1}"#, "did you mean 'value'"),
        (r#"{"value":null}"#, "\"tombstone\":true"),
        (r#"{"key":null,"value":1}"#, "leave the field out"),
        (r#"{"headers":[{"name":"a","value":null}],"value":1}"#, "value is null"),
        (r#"{"value":1,"value":2}"#, "given twice"),
        (r#"{"value":1,"val\u0075e":2}"#, "given twice"),
        (r#"{"key":5,"value":1}"#, "'key' in the record is a string"),
        (r#"{"partition":"1","value":1}"#, "is a number"),
        (r#"{"headers":{},"value":1}"#, "is an array"),
        (r#"{"headers":[{"value":"b"}],"value":1}"#, "has no name"),
        (r#"{"value":"\ud800"}"#, "surrogate"),
        (r#"{"value":1e999}"#, "too large"),
        (r#"{"value":1} x"#, "something follows"),
        (r#"{"value":1"#, "expected"),
        ("[]", "a record is an object"),
        ("null", "null is not allowed"),
        ("no json", "a JSON value was expected"),
        (r#"{"value":nil}"#, "a JSON value was expected"),
        ("", "a record is an object"),
    ] {
        match one(text) {
            Err(Refusal::Malformed(problem)) => {
                assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
                let detail = &problem.body().detail;
                assert!(detail.contains(says) || text.is_empty(), "{text}: {detail}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn what_can_not_be_stored_is_invalid() {
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(1001));
    for (text, code) in [
        (r#"{"key":"a"}"#, "invalid-record"),
        (r#"{"value":1,"text":"a"}"#, "invalid-record"),
        (r#"{"value":1,"tombstone":true}"#, "invalid-record"),
        (r#"{"tombstone":false}"#, "invalid-record"),
        (r#"{"base64":"?"}"#, "invalid-record"),
        (r#"{"key":"a","key_base64":"AA==","value":1}"#, "invalid-record"),
        (r#"{"partition":-1,"value":1}"#, "unknown-partition"),
        (r#"{"partition":1.5,"value":1}"#, "unknown-partition"),
        (r#"{"timestamp_ms":-1,"value":1}"#, "invalid-timestamp"),
        (r#"{"headers":[{"name":"Sluice-x"}],"value":1}"#, "reserved-header"),
        (r#"{"headers":[{"name":"a","value":"b","value_base64":""}],"value":1}"#, "invalid-record"),
        (r#"{"headers":[{"name":"a"},{"name":"a"},{"name":"a"},{"name":"a"}],"value":1}"#, "invalid-record"),
        (long.as_str(), "record-too-large"),
    ] {
        match one(text) {
            Err(Refusal::Invalid(problem)) => assert_eq!(problem.code(), code, "{text}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_batch_names_each_bad_record() {
    let records = batch(r#" {"records": [ {"value":1} , {}, {"text":"b"} ] } "#).unwrap();
    assert_eq!(records.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    for (text, says) in [
        (r#"{"records":[]}"#, "at least one"),
        (r#"{}"#, "missing"),
        (r#"{"record":[]}"#, "did you mean 'records'"),
        (r#"{"records":[{"value":1},{"x":1}]}"#, "records[1]"),
        (r#"{"records":[{"value":1}],"records":[{"value":1}]}"#, "twice"),
        (r#"{"records":[{"value":1}"#, "expected"),
        (r#"{"records":null}"#, "array"),
        (r#"{"records":[{"value":1},null]}"#, "null is not allowed"),
        ("{\"records\":[{\"value\":1},\n{\"value\":tru}]}", "line 2, column 10"),
    ] {
        let problem = batch(text).unwrap_err();
        assert_eq!(problem.status(), StatusCode::BAD_REQUEST);
        assert!(problem.body().detail.contains(says), "{text}: {}", problem.body().detail);
    }
    let many = format!(r#"{{"records":[{}]}}"#, [r#"{"value":1}"#; 6].join(","));
    assert_eq!(batch(&many).unwrap_err().status(), StatusCode::PAYLOAD_TOO_LARGE);
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

proptest! {
    #[test]
    fn what_is_written_is_what_is_stored(
        key in proptest::option::of(any::<String>()),
        text in any::<String>(),
        bytes in prop::collection::vec(any::<u8>(), 0..100),
        headers in prop::collection::vec((any::<String>(), any::<String>()), 0..3),
        form in 0..4,
    ) {
        prop_assume!(headers.iter().all(|(name, _)| reserved(name.as_bytes()).is_none()));
        let (field, expected) = match form {
            0 => (format!("\"value\":{}", quoted(&text)), Some(Bytes::from(quoted(&text)))),
            1 => (format!("\"text\":{}", quoted(&text)), Some(Bytes::from(text.clone()))),
            2 => (format!("\"base64\":\"{}\"", BASE64.encode(&bytes)), Some(Bytes::from(bytes))),
            _ => ("\"tombstone\":true".to_owned(), None),
        };
        let names: Vec<_> = headers.iter().map(|(n, v)| format!("{{\"name\":{},\"value\":{}}}", quoted(n), quoted(v))).collect();
        let key_field = key.as_ref().map_or(String::new(), |k| format!("\"key\":{},", quoted(k)));
        let record = one(&format!("{{{key_field}\"headers\":[{}],{field}}}", names.join(","))).unwrap().record;
        prop_assert_eq!(record.value, expected);
        prop_assert_eq!(record.key, key.map(Bytes::from));
        let stored: Vec<_> = record.headers.into_iter().map(|h| (h.name, h.value.unwrap())).collect();
        let sent: Vec<_> = headers.into_iter().map(|(n, v)| (Bytes::from(n), Bytes::from(v))).collect();
        prop_assert_eq!(stored, sent);
    }

    #[test]
    fn any_text_is_safe(text in r#"[\{\}\[\]":,a-z0-9 \\n.-]{0,60}"#) {
        let _ = one(&text);
        let _ = batch(&format!(r#"{{"records":[{text}]}}"#));
        let _ = batch(&text);
    }
}
