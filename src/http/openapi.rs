//! The API's document: OpenAPI 3.1 from the routes themselves, 3.0.3 derived from it, and the pages that show it.
//!
//! **Invariant**: a route that is served is in the document, for both come from one registration
//! (`router::documented`); only what no attribute can say is added here. The files in `openapi/` are what
//! [`document`] gives; a test holds them to it.

use super::{AppState, assets, router};
use axum::{
    Router,
    extract::Path,
    http::HeaderMap,
    response::{IntoResponse as _, Response},
    routing::get,
};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, LazyLock};

/// The routes, as labels.
pub const PATHS: [&str; 4] = ["/openapi.json", "/openapi-3.0.json", "/docs", "/docs/{file}"];

/// What the pages may load: Swagger UI's own files, which style themselves inline, and this server's API.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
const API_POLICY: &str = "default-src 'none'; frame-ancestors 'none'; sandbox";

const PAGE: &str = r#"<!doctype html>
<html lang="en">
  <head>
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width, initial-scale=1">
    <title>Sluice API</title>
    <link rel="stylesheet" href="/docs/swagger-ui.css">
    <link rel="icon" type="image/svg+xml" href="/assets/favicon.svg">
  </head>
  <body>
    <div id="swagger-ui"></div>
    <noscript>These pages need JavaScript; the document itself is <a href="/openapi.json">openapi.json</a>.</noscript>
    <script src="/docs/swagger-ui-bundle.js"></script>
    <script src="/docs/start.js"></script>
  </body>
</html>
"#;
const START: &str = "SwaggerUIBundle({ url: '/openapi.json', dom_id: '#swagger-ui', deepLinking: true, \
    validatorUrl: null, tryItOutEnabled: true, presets: [SwaggerUIBundle.presets.apis] });\n";

/// The document's routes, which the document itself leaves out: they describe, and are not described.
pub fn routes() -> Router<AppState> {
    Router::new()
        .route("/openapi.json", get(async |headers: HeaderMap| json_response(&DOCUMENTS.0, &headers)))
        .route("/openapi-3.0.json", get(async |headers: HeaderMap| json_response(&DOCUMENTS.1, &headers)))
        .route("/docs", get(async |headers: HeaderMap| page(PAGE, "text/html; charset=utf-8", &headers)))
        .route("/docs/", get(async |headers: HeaderMap| page(PAGE, "text/html; charset=utf-8", &headers)))
        .route("/docs/{file}", get(docs_file))
}

async fn docs_file(Path(file): Path<String>, headers: HeaderMap) -> Response {
    match file.as_str() {
        "start.js" => page(START, "text/javascript; charset=utf-8", &headers),
        "swagger-ui.css" => swagger_file(&file, "text/css; charset=utf-8", &headers),
        "swagger-ui-bundle.js" => swagger_file(&file, "text/javascript; charset=utf-8", &headers),
        _ => super::problem::Problem::not_found(format!("the API's pages have no file '{file}'")).into_response(),
    }
}

fn swagger_file(file: &str, content_type: &'static str, headers: &HeaderMap) -> Response {
    match utoipa_swagger_ui::serve(file, Arc::new(utoipa_swagger_ui::Config::default())) {
        Ok(Some(found)) => {
            let etag = format!("\"{:016x}\"", found.bytes.len());
            assets::tagged(content_type, found.bytes.into_owned(), &etag, headers, POLICY)
        }
        Ok(None) | Err(_) => {
            super::problem::Problem::not_found(format!("the API's pages have no file '{file}'")).into_response()
        }
    }
}

fn page(text: &'static str, content_type: &'static str, headers: &HeaderMap) -> Response {
    assets::tagged(content_type, text, &etag(text), headers, POLICY)
}

fn json_response(text: &'static str, headers: &HeaderMap) -> Response {
    assets::tagged("application/json", text, &etag(text), headers, API_POLICY)
}

fn etag(text: &str) -> String {
    let hash: [u8; 32] = Sha256::digest(text).into();
    let hex: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("\"{hex}\"")
}

static DOCUMENTS: LazyLock<(String, String)> = LazyLock::new(|| {
    let document = complete();
    let older = older(document.clone());
    let text = |value: &Value| {
        let mut text = serde_json::to_string_pretty(value).expect("a JSON value has only string keys");
        text.push('\n');
        text
    };
    (text(&document), text(&older))
});

/// The document as OpenAPI 3.1 and as 3.0.3, each as JSON text with a line feed at its end.
#[must_use]
pub fn document() -> (String, String) {
    DOCUMENTS.clone()
}

/// The registered routes, and what all operations share.
fn complete() -> Value {
    let (_, registered) = router::documented().split_for_parts();
    let mut document = serde_json::to_value(&registered).expect("a document is JSON");
    document["openapi"] = json!("3.1.0");
    document["info"] = json!({
        "title": "Sluice",
        "version": env!("CARGO_PKG_VERSION"),
        "description": "A streaming gateway: a partitioned log with a web-native front door. Errors are problems \
            (RFC 9457) with a stable `code`. Nothing is ever `null`, in either direction.",
        "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
    });
    document["servers"] = json!([{ "url": "/", "description": "This server" }]);
    document["tags"] = json!([
        { "name": "topics", "description": "Named groups of partitions" },
        { "name": "produce", "description": "Storing records" },
        { "name": "read", "description": "Reading records in pages, and single ones" },
        { "name": "queues", "description": "A lease per message, acknowledged one by one" },
        { "name": "streaming", "description": "Streams in and out; generated clients may leave them out" },
        { "name": "groups", "description": "Consumer groups: sharing a topic's partitions, and remembering how far they were read" },
        { "name": "operations", "description": "The server itself" },
    ]);
    document["security"] = json!([]);
    let schemas = &mut document["components"]["schemas"];
    add_schemas(schemas);
    if let Some(paths) = document["paths"].as_object_mut() {
        for operation in paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut) {
            complete_operation(operation);
        }
    }
    leave_out_slow(&mut document["paths"]["/v1/topics/{topic}/records"]["get"]);
    link(&mut document);
    plain_choices(&mut document);
    let schemas = &mut document["components"]["schemas"];
    one_schema(schemas);
    defaults_in_words(schemas);
    exact_texts(schemas);
    exact_names(&mut document);
    document
}

fn add_schemas(schemas: &mut Value) {
    use utoipa::{PartialSchema as _, ToSchema as _};
    let mut needed = Vec::new();
    super::problem::Body::schemas(&mut needed);
    needed.push(("Problem".to_owned(), super::problem::Body::schema()));
    for (name, schema) in needed {
        schemas[&name] = serde_json::to_value(schema).expect("a schema is JSON");
    }
    refuse_together(schemas);
    let values = ["value", "text", "base64", "tombstone"];
    let mut refused = vec![both("key", "key_base64")];
    for (n, a) in values.iter().enumerate() {
        refused.extend(values[n + 1..].iter().map(|b| both(a, b)));
    }
    let one: Vec<_> = values.iter().map(|name| json!({ "required": [name] })).collect();
    refused.push(json!({ "not": { "anyOf": one } }));
    schemas["NewRecord"]["not"] = json!({ "anyOf": refused });
    schemas["NewRecord"]["properties"]["value"]["not"] = json!({ "type": "null" });
    for name in
        ["NewRecord", "RecordHeader", "RecordBatch", "NewTopic", "TopicChange", "TruncateTopic", "TruncatePartition"]
    {
        schemas[name]["additionalProperties"] = json!(false);
    }
}

fn both(a: &str, b: &str) -> Value {
    json!({ "required": [a, b] })
}

fn none_of(names: &[&str]) -> Value {
    let each: Vec<_> = names.iter().map(|name| json!({ "required": [name] })).collect();
    json!({ "not": { "anyOf": each } })
}

/// Which fields go together is no concern of generators, and of validators it is.
fn refuse_together(schemas: &mut Value) {
    schemas["RecordHeader"]["not"] = both("value", "value_base64");
    let mut positions = vec![none_of(&["from", "since", "offsets"])];
    let pairs = [("from", "since"), ("from", "offsets"), ("since", "offsets"), ("topics", "offsets")];
    positions.extend(pairs.map(|(a, b)| both(a, b)));
    schemas["SetGroupOffsets"]["not"] = json!({ "anyOf": positions });
    schemas["CommitGroupOffsets"]["not"] =
        json!({ "anyOf": [both("cursor", "offsets"), none_of(&["cursor", "offsets"])] });
    let lists = ["ack", "nack", "reject", "extend"].map(|name| (name.to_owned(), json!({ "maxItems": 0 })));
    schemas["SettleMessages"]["not"] = json!({ "properties": Map::from_iter(lists) });
    let parts = ["partition", "messages", "state", "reason"];
    let some: Vec<_> = parts.iter().map(|name| json!({ "required": [name] })).collect();
    schemas["DeadFilter"]["not"] = json!({ "anyOf": [
        { "required": ["all"], "properties": { "all": { "enum": [true] } }, "anyOf": some },
        { "properties": { "all": { "enum": [false] } }, "not": { "anyOf": some } },
    ] });
}

/// Pages and streams share their parameters, but a page refuses `slow`; and generated clients send a documented default.
fn leave_out_slow(page: &mut Value) {
    if let Some(parameters) = page["parameters"].as_array_mut() {
        parameters.retain(|parameter| parameter["name"] != "slow");
    }
}

/// Problems for every operation, and limits that the type of a parameter implies.
fn complete_operation(operation: &mut Value) {
    if operation.get("responses").is_none() {
        return; // a path's own parameters, not an operation
    }
    let problem = |description: &str| {
        json!({
            "description": description,
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
        })
    };
    operation["responses"]["4XX"] = problem("The request was refused; `code` says why");
    operation["responses"]["5XX"] =
        problem("The server could not do it now; `retryable` and `side_effects` say what to do");
}

/// An inlined choice comes as two schemas, of which the second has the words of the place, and a type that is wrong.
fn plain_choices(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(plain_choices),
        Value::Object(object) => {
            object.values_mut().for_each(plain_choices);
            let Some([choice, place]) = object.get("allOf").and_then(Value::as_array).map(Vec::as_slice) else {
                return;
            };
            if choice.get("enum").is_none() {
                return;
            }
            let mut plain = choice.clone();
            for word in ["default", "description"] {
                if let Some(said) = place.get(word) {
                    plain[word] = said.clone();
                }
            }
            *value = plain;
        }
        _ => {}
    }
}

/// What is flattened into an answer comes as a schema of its own beside the rest; for generators it is one.
fn one_schema(schemas: &mut Value) {
    for name in ["Queue", "QueuePartitionState"] {
        let parts = schemas[name]["allOf"].as_array().cloned().unwrap_or_default();
        let (mut properties, mut required, mut description) = (Map::new(), Vec::new(), Value::default());
        for part in parts {
            let referred = part["$ref"].as_str().and_then(|path| path.rsplit('/').next());
            let part = referred.map_or(&part, |name| &schemas[name]);
            properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
            required.extend(part["required"].as_array().cloned().unwrap_or_default());
            description = part["description"].clone();
        }
        let description = schemas[name].get("description").cloned().unwrap_or(description);
        schemas[name] =
            json!({ "type": "object", "description": description, "properties": properties, "required": required });
    }
}

/// A documented default of a body's field makes openapi-typescript demand the field, and others send it.
fn defaults_in_words(schemas: &mut Value) {
    let all = schemas.as_object_mut().into_iter().flat_map(Map::values_mut);
    let properties = all.filter_map(|schema| schema.get_mut("properties")?.as_object_mut()).flat_map(Map::values_mut);
    for property in properties.filter_map(Value::as_object_mut) {
        let Some(default) = property.remove("default") else { continue };
        let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
        let said = property.get("description").and_then(Value::as_str).unwrap_or_default();
        let said = format!("{said} Default: `{default}`.");
        property.insert("description".to_owned(), said.into());
    }
}

/// Kafka's rule for names as attributes say it, for short, and as it is: `.` and `..` are none.
const SHORT_NAME: &str = "^[a-zA-Z0-9._-]{1,249}$";
const NAME: &str =
    r"^([a-zA-Z0-9_-][a-zA-Z0-9._-]{0,248}|\.[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,247}|\.\.[a-zA-Z0-9._-]{1,247})$";

/// A time as `read_parameters` takes it: RFC 3339.
const TIME: &str = "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt ]([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)\
    (\\.[0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
/// Its other forms: Unix milliseconds, and so long ago.
const MOMENTS: &str = "[0-9]{1,18}|-[0-9]{1,11}(ms|s|m|h|d)";

/// What an attribute has no words for: the items of a list, and a pattern that is made of others.
fn exact_texts(schemas: &mut Value) {
    for name in ["JoinGroupMember", "SetGroupOffsets"] {
        schemas[name]["properties"]["topics"]["items"]["pattern"] = json!(SHORT_NAME);
    }
    schemas["SetGroupOffsets"]["properties"]["since"]["pattern"] = json!(format!("^({MOMENTS}|{TIME})$"));
    schemas["QueueDefinition"]["properties"]["start"]["pattern"] = json!(format!("^(earliest|latest|{TIME})$"));
}

fn exact_names(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(exact_names),
        Value::Object(object) => object.values_mut().for_each(exact_names),
        Value::String(text) if text == SHORT_NAME => NAME.clone_into(text),
        _ => {}
    }
}

/// What follows from an answer, for readers and for tests that walk the API.
fn link(document: &mut Value) {
    let topic =
        |operation: &str, expression: &str| json!({ "operationId": operation, "parameters": { "topic": expression } });
    let made = "$response.body#/name";
    let created = &mut document["paths"]["/v1/topics"]["post"]["responses"]["201"]["links"];
    *created = json!({
        "get_topic": topic("get_topic", made),
        "alter_topic": topic("alter_topic", made),
        "publish_event": topic("publish_event", made),
        "produce_records": topic("produce_records", made),
        "truncate_topic": topic("truncate_topic", made),
        "delete_topic": topic("delete_topic", made),
    });
    let operations: Vec<String> = document["paths"]
        .as_object()
        .into_iter()
        .flat_map(Map::values)
        .filter_map(Value::as_object)
        .flat_map(Map::values)
        .filter_map(|operation| Some(operation.get("operationId")?.as_str()?.to_owned()))
        .collect();
    let stored = "$response.body#/topic";
    let mut links = json!({ "get_topic": topic("get_topic", stored) });
    if operations.iter().any(|id| id == "get_record") {
        links["get_record"] = json!({
            "operationId": "get_record",
            "parameters": {
                "topic": stored,
                "partition": "$response.body#/partition",
                "offset": "$response.body#/offset",
            },
        });
    }
    document["paths"]["/v1/topics/{topic}/events"]["post"]["responses"]["201"]["links"] = links;
}

/// OpenAPI 3.0.3 has an older JSON Schema: this says the same in its words.
fn older(mut document: Value) -> Value {
    document["openapi"] = json!("3.0.3");
    if let Some(license) = document["info"]["license"].as_object_mut() {
        license.remove("identifier");
    }
    older_words(&mut document);
    document
}

fn older_words(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(older_words),
        Value::Object(object) => {
            object.values_mut().for_each(older_words);
            older_schema(object);
        }
        _ => {}
    }
}

fn older_schema(object: &mut Map<String, Value>) {
    // A list of examples is a schema's; a parameter's or a body's is an object, and stays.
    if let Some(Value::Array(examples)) = object.get_mut("examples") {
        let first = if examples.is_empty() { None } else { Some(examples.remove(0)) };
        object.remove("examples");
        if let Some(first) = first {
            object.entry("example").or_insert(first);
        }
    }
    if let Some(constant) = object.remove("const") {
        object.insert("enum".to_owned(), json!([constant]));
    }
    if object.remove("contentEncoding").is_some() {
        object.insert("format".to_owned(), json!("byte"));
    }
    object.remove("propertyNames");
    // It has no null to exclude.
    if object.get("not").is_some_and(|not| *not == json!({ "type": "null" })) {
        object.remove("not");
    }
    for (name, plain) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        if let Some(bound @ Value::Number(_)) = object.get(name).cloned() {
            object.insert(plain.to_owned(), bound);
            object.insert(name.to_owned(), json!(true));
        }
    }
    // Here what stands beside a $ref is ignored, so it moves out of the way.
    if object.len() > 1
        && let Some(reference @ Value::String(_)) = object.remove("$ref")
    {
        object.insert("allOf".to_owned(), json!([{ "$ref": reference }]));
    }
}

#[cfg(test)]
mod tests;
