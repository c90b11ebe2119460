use super::*;
use std::collections::BTreeSet;

fn parsed() -> [Value; 2] {
    let (new, old) = document();
    [serde_json::from_str(&new).unwrap(), serde_json::from_str(&old).unwrap()]
}

fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().iter().map(move |(m, o)| (path.clone(), m.clone(), o.clone()))
        })
        .collect()
}

/// Everything in the document, with its place.
fn walk(value: &Value, place: &str, visit: &mut dyn FnMut(&str, &Value)) {
    visit(place, value);
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(n, v)| walk(v, &format!("{place}/{n}"), visit)),
        Value::Object(object) => object.iter().for_each(|(k, v)| walk(v, &format!("{place}/{k}"), visit)),
        _ => {}
    }
}

/// The files are rewritten by `SLUICE_WRITE_OPENAPI=1 cargo test --lib openapi`.
#[test]
fn the_files_are_what_the_code_says() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi");
    let (new, old) = document();
    for (name, text) in [("openapi.json", new), ("openapi-3.0.json", old)] {
        let path = format!("{folder}/{name}");
        if std::env::var_os("SLUICE_WRITE_OPENAPI").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let lies = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(lies == text, "{path} is out of date; write it anew: SLUICE_WRITE_OPENAPI=1 cargo test --lib openapi");
    }
}

#[test]
fn every_operation_is_complete() {
    for document in parsed() {
        let mut ids = BTreeSet::new();
        for (path, method, operation) in operations(&document) {
            let place = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{place}: operationId is taken");
            assert!(
                operation["summary"].is_string() && operation["description"].is_string(),
                "{place}: no description"
            );
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{place}: tags");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("4XX") && responses.contains_key("5XX"), "{place}: problems");
            assert!(!responses.contains_key("default"), "{place}: default");
            let mut success = Vec::new();
            for (status, response) in responses {
                assert!(
                    response["description"].as_str().is_some_and(|d| !d.is_empty()),
                    "{place} {status}: description"
                );
                if let Some(content) = response["content"].as_object() {
                    let streamed = operation["tags"][0] == "streaming";
                    assert!(content.len() == 1 || streamed, "{place} {status}: one content type");
                    if status.starts_with('2') {
                        success.push(content.values().next().unwrap()["schema"].to_string());
                    }
                }
            }
            success.dedup();
            assert!(success.len() <= 1, "{place}: one success schema");
            for name in path.split(['{', '}']).skip(1).step_by(2) {
                let parameters = operation["parameters"].as_array().unwrap();
                assert!(parameters.iter().any(|p| p["name"] == name && p["in"] == "path"), "{place}: {name}");
            }
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                assert!(parameter["description"].is_string(), "{place}: {parameter}");
                assert!(parameter["schema"].is_object(), "{place}: {parameter}");
            }
        }
    }
}

#[test]
fn references_lead_somewhere_and_nothing_is_null() {
    for document in parsed() {
        walk(&document, "", &mut |place, value| {
            if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
                let pointer = reference.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{place}: {reference}");
            }
            assert!(!value.is_null(), "{place} is null");
            assert!(value != "null" || place.ends_with("/not/type"), "{place}");
            let both = value.get("allOf").and_then(Value::as_array).is_some_and(|all| all.len() > 1);
            assert!(!both, "{place}: two schemas for one value");
        });
    }
}

#[test]
fn what_is_flattened_is_there_and_no_body_has_a_default() {
    for document in parsed() {
        let schemas = document["components"]["schemas"].as_object().unwrap();
        for (name, fields) in [
            ("Queue", ["name", "ready", "acked", "partitions"]),
            ("QueuePartitionState", ["partition", "start_offset", "ready", "dead"]),
        ] {
            let (properties, required) = (&schemas[name]["properties"], schemas[name]["required"].as_array().unwrap());
            for field in fields {
                assert!(properties[field].is_object() && required.contains(&field.into()), "{name}: {field}");
            }
        }
        for (name, schema) in schemas {
            for (field, property) in schema["properties"].as_object().into_iter().flatten() {
                assert!(property.get("default").is_none(), "{name}: {field}");
            }
        }
        let lease = schemas["QueueDefinition"]["properties"]["lease_ms"]["description"].as_str().unwrap();
        assert!(lease.ends_with("Default: `30000`."), "{lease}");
    }
}

#[test]
fn the_older_document_uses_only_older_words() {
    let [_, old] = parsed();
    assert_eq!(old["openapi"], "3.0.3");
    walk(&old, "", &mut |place, value| {
        let Some(object) = value.as_object() else { return };
        for word in
            ["const", "$defs", "contentEncoding", "contentMediaType", "prefixItems", "propertyNames", "webhooks"]
        {
            assert!(!object.contains_key(word) || place.ends_with("/properties"), "{place}: {word}");
        }
        assert!(!object.get("type").is_some_and(Value::is_array), "{place}: a list of types");
        assert!(!object.contains_key("$ref") || object.len() == 1, "{place}: words beside a $ref");
    });
}

#[test]
fn a_page_does_not_document_what_it_refuses() {
    for document in parsed() {
        let names = |path: &str| -> BTreeSet<String> {
            let parameters = document["paths"][path]["get"]["parameters"].as_array().unwrap();
            parameters.iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect()
        };
        assert!(!names("/v1/topics/{topic}/records").contains("slow"));
        assert!(names("/v1/topics/{topic}/stream").contains("slow"));
    }
}
