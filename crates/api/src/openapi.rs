//! The OpenAPI document: what the routes say of themselves, and what holds for all of them.

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::{
    ToSchema,
    openapi::{
        ComponentsBuilder, ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Required,
        Response, ResponseBuilder,
        path::{Operation, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
        tag::TagBuilder,
    },
};

use crate::{
    problem::{Problem, ProblemCode},
    routes,
};

const SECURITY: &str = "key";

const TAGS: [(&str, &str); 9] = [
    ("tokens", "A token that is valid now: what everything else exists for."),
    ("flows", "Connect a user in a browser: start, watch, finish, cancel."),
    ("connections", "Stored grants: list, show, take back."),
    ("revocations", "What providers are told, and what became of it."),
    ("connectors", "OAuth client registrations."),
    ("providers", "The catalogue of authorization servers."),
    ("keys", "API keys: who may do what."),
    ("audit", "Who did what to which, and when."),
    ("health", "Probes and numbers; without a key."),
];

const DESCRIPTION: &str = "A self-hosted token broker for connectors. JSON throughout, `snake_case`; times are RFC 3339, durations \
    are seconds. Every failure is a problem (RFC 9457) with a stable `code`, explained at `/problems/{code}`. Unknown fields are \
    refused. Lists page by cursor: send `next` as `after`. What belongs to another space, or to a connector that the key does not \
    name, answers like what does not exist.";

/// The document, as it is served at `/openapi.json`: pretty, and the same for the same build.
pub fn openapi() -> String {
    let mut document = routes::document();
    complete(&mut document);
    // The document is made of texts, maps and lists: writing it has nothing to fail at.
    let mut text = document.to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// What the document begins with.
pub(crate) fn head() -> OpenApi {
    let licence = LicenseBuilder::new().name("Apache-2.0 OR MIT").identifier(Some("Apache-2.0 OR MIT")).build();
    let info =
        InfoBuilder::new().title("Valetkey").version("1").description(Some(DESCRIPTION)).license(Some(licence)).build();
    let key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("vk_<id>_<secret>")
        .description(Some("An API key, made with `valetkey keys create` or `POST /v1/keys`."))
        .build();
    let mut components = ComponentsBuilder::new()
        .security_scheme(SECURITY, SecurityScheme::Http(key))
        .schema_from::<ProblemDocument>()
        .schema_from::<FaultDocument>()
        .schema_from::<OfferDocument>();
    for shared in SHARED.iter().chain(&WITHOUT_TOKEN) {
        components = components.response(shared.name, shared.response());
    }
    OpenApiBuilder::new()
        .info(info)
        .tags(Some(TAGS.map(|(name, text)| TagBuilder::new().name(name).description(Some(text)).build())))
        .components(Some(components.build()))
        .build()
}

/// A problem, as every failure is answered (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
struct ProblemDocument {
    /// Where the problem is explained, under the public address.
    #[serde(rename = "type")]
    type_uri: String,
    /// What people read first; the same for every occurrence.
    title: String,
    /// The status.
    status: u16,
    /// What programs compare; it never changes its meaning.
    code: String,
    /// What is special about this occurrence.
    #[schema(nullable = false)]
    detail: Option<String>,
    /// What is wrong with the request.
    #[schema(nullable = false)]
    faults: Option<Vec<FaultDocument>>,
    /// Seconds to wait, as in `Retry-After`.
    #[schema(nullable = false)]
    retry_after: Option<u64>,
    /// Why a grant is dead.
    #[schema(nullable = false)]
    reason: Option<String>,
    /// Since when.
    #[schema(nullable = false, format = DateTime)]
    since: Option<String>,
    /// Scopes that the grant lacks.
    #[schema(nullable = false)]
    missing_scopes: Option<Vec<String>>,
    /// A fresh flow, where one was asked for.
    #[schema(nullable = false)]
    start: Option<OfferDocument>,
    /// The request, as the log names it.
    #[schema(nullable = false)]
    request_id: Option<String>,
}

/// One thing that is wrong with a request.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Fault)]
struct FaultDocument {
    /// The field, dotted.
    field: String,
    /// What is wrong and what would be right.
    message: String,
}

/// A fresh flow that comes with a refusal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = FlowOffer)]
struct OfferDocument {
    /// Its id.
    flow_id: String,
    /// The link to open in the user's browser.
    start_url: String,
    /// When its life ends.
    #[schema(format = DateTime)]
    expires_at: String,
}

/// A response that many operations share.
struct Shared {
    name: &'static str,
    status: &'static str,
    description: &'static str,
    example: fn() -> Problem,
}

/// What the token call answers without a token to give; each a next step for the caller.
const WITHOUT_TOKEN: [Shared; 3] = [
    Shared {
        name: "ScopesMissing",
        status: "403",
        description: "The grant lacks scopes (`scopes-missing`), or the key's roles do not allow it (`forbidden`)",
        example: || {
            Problem::new(ProblemCode::ScopesMissing).member("missing_scopes", vec!["repo"]).member("start", offer())
        },
    },
    Shared {
        name: "NobodyConnected",
        status: "404",
        description: "Nobody has connected (`connection-not-found`), or there is no such connector (`connector-not-found`)",
        example: || Problem::new(ProblemCode::ConnectionNotFound).member("start", offer()),
    },
    Shared {
        name: "ReconnectRequired",
        status: "409",
        description: "The grant is dead (`reconnect-required`), or a rejected token cannot be replaced (`rejected-not-refreshable`)",
        example: || {
            Problem::new(ProblemCode::ReconnectRequired)
                .member("reason", "grant_revoked")
                .member("since", "2026-11-20T09:30:00.000Z")
                .member("start", offer())
        },
    },
];

fn offer() -> Value {
    json!({
        "flow_id": "flw_06bc4jp3kg1hf0c9q2m8r5vk3o",
        "start_url": "https://connect.example/connect/…",
        "expires_at": "2026-11-20T09:40:00.000Z",
    })
}

const SHARED: [Shared; 12] = [
    Shared {
        name: "Malformed",
        status: "400",
        description: "A part of the path, the query or the body cannot be read",
        example: || Problem::new(ProblemCode::MalformedJson).member("line", 1).member("column", 17),
    },
    Shared {
        name: "Unauthenticated",
        status: "401",
        description: "No valid key",
        example: || Problem::new(ProblemCode::Unauthenticated),
    },
    Shared {
        name: "Forbidden",
        status: "403",
        description: "The key's roles do not allow it",
        example: || Problem::new(ProblemCode::Forbidden).member("operation", "connector_create"),
    },
    Shared {
        name: "NotFound",
        status: "404",
        description: "Nothing of that id exists for this key",
        example: || Problem::new(ProblemCode::ConnectorNotFound),
    },
    Shared {
        name: "Conflict",
        status: "409",
        description: "It does not stand where this call needs it",
        example: || Problem::new(ProblemCode::VersionConflict).member("current_version", 4),
    },
    Shared {
        name: "Gone",
        status: "410",
        description: "The flow is over",
        example: || Problem::new(ProblemCode::FlowExpired).member("flow_status", "expired"),
    },
    Shared {
        name: "TooLarge",
        status: "413",
        description: "The body is too large",
        example: || Problem::new(ProblemCode::BodyTooLarge).member("limit", 65_536),
    },
    Shared {
        name: "UnsupportedMediaType",
        status: "415",
        description: "The body's type is not the one needed",
        example: || Problem::new(ProblemCode::UnsupportedMediaType),
    },
    Shared {
        name: "Invalid",
        status: "422",
        description: "The request is well-formed and wrong",
        example: || Problem::fault(ProblemCode::UnknownField, "nmae", "expected one of `name`, `provider`"),
    },
    Shared {
        name: "LimitReached",
        status: "429",
        description: "Too many calls; with `Retry-After`",
        example: || Problem::new(ProblemCode::LimitReached).member("limit", "starts").member("retry_after", 6),
    },
    Shared {
        name: "Unavailable",
        status: "503",
        description: "The provider, the database or this process cannot serve now; with `Retry-After`",
        example: || Problem::new(ProblemCode::ProviderUnavailable).member("retry_after", 5),
    },
    Shared {
        name: "Failed",
        status: "default",
        description: "Another problem",
        example: || Problem::new(ProblemCode::InternalError),
    },
];

impl Shared {
    fn response(&self) -> Response {
        let example = serde_json::from_slice((self.example)().write(Some("5f1c09a2-0003e8")).as_slice());
        let content =
            ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).example(example.ok()).build();
        ResponseBuilder::new().description(self.description).content("application/problem+json", content).build()
    }
}

/// Operations that do something without a body: it counts as `{}`.
const WITHOUT_BODY: [&str; 2] = ["fetch_token", "update_connector"];

/// Adds to every operation what it shares with the others.
fn complete(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            // The first line of a doc comment is a sentence; a heading has no full stop.
            operation.summary = operation.summary.take().map(|summary| summary.trim_end_matches('.').to_owned());
            if !path.starts_with("/v1/") {
                add(operation, &["503"]);
                continue;
            }
            operation.security = Some(vec![SecurityRequirement::new(SECURITY, Vec::<String>::new())]);
            if path.ends_with("/token") {
                add_all(operation, WITHOUT_TOKEN.iter());
            }
            add(operation, &["401", "403", "default"]);
            if path.contains('{') {
                add(operation, &["400", "404"]);
            }
            if operation.parameters.is_some() {
                add(operation, &["400"]);
            }
            let is_optional = operation.operation_id.as_deref().is_some_and(|id| WITHOUT_BODY.contains(&id));
            if let Some(body) = &mut operation.request_body {
                if let (RefOr::T(body), true) = (body, is_optional) {
                    body.required = Some(Required::False);
                }
                add(operation, &["400", "413", "415", "422"]);
            }
            match path.as_str() {
                // Which filters a caller has to name depends on its roles.
                "/v1/connections" => add(operation, &["422"]),
                // The plan that the body names.
                "/v1/connections/revoke" => add(operation, &["404"]),
                _ => {}
            }
            if method != "get" {
                add(operation, &["409", "503"]);
            }
            if path.ends_with("/token") || path.ends_with("/flows") {
                add(operation, &["429"]);
            }
            if path.starts_with("/v1/flows/") && method == "post" {
                add(operation, &["410"]);
            }
        }
    }
}

fn add(operation: &mut Operation, statuses: &[&str]) {
    add_all(operation, SHARED.iter().filter(|shared| statuses.contains(&shared.status)));
}

/// Adds what the operation does not say itself.
fn add_all<'a>(operation: &mut Operation, responses: impl Iterator<Item = &'a Shared>) {
    for shared in responses {
        let status = shared.status.to_owned();
        let reference = || Ref::from_response_name(shared.name).into();
        operation.responses.responses.entry(status).or_insert_with(reference);
    }
}

/// The operations of a path, with their methods.
pub(crate) fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("get", item.get.as_mut()),
        ("post", item.post.as_mut()),
        ("patch", item.patch.as_mut()),
        ("delete", item.delete.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.map(|operation| (method, operation)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn document() -> Value {
        serde_json::from_str(&openapi()).expect("json")
    }

    fn every_operation(document: &Value) -> Vec<(String, &Value)> {
        let mut found = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, operation) in item.as_object().expect("an item") {
                found.push((format!("{method} {path}"), operation));
            }
        }
        found
    }

    #[test]
    fn the_file_in_docs_is_current() {
        let file = include_str!("../../../docs/openapi.json");
        assert!(file == openapi(), "docs/openapi.json is out of date: `valetkey openapi > docs/openapi.json`");
    }

    #[test]
    fn the_document_is_openapi_3_1_and_the_same_each_time() {
        assert_eq!(document()["openapi"], "3.1.0");
        assert_eq!(openapi(), openapi());
    }

    #[test]
    fn every_operation_is_named_verb_noun_and_names_its_problems() {
        let document = document();
        let mut names = BTreeSet::new();
        for (place, operation) in every_operation(&document) {
            let name = operation["operationId"].as_str().expect("a name");
            assert!(name.contains('_') && names.insert(name.to_owned()), "{place}: {name}");
            assert!(operation["summary"].is_string(), "{place} has no summary");
            assert_eq!(operation["tags"].as_array().map(Vec::len), Some(1), "{place}");
            if place.contains(" /v1/") {
                assert!(operation["security"][0]["key"].is_array(), "{place} asks for no key");
                for status in ["401", "403", "default"] {
                    assert!(operation["responses"][status]["$ref"].is_string(), "{place} lacks {status}");
                }
            } else {
                assert!(operation["security"].is_null(), "{place}");
            }
        }
        assert_eq!(names.len(), 26, "{names:?}");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        fn walk<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str));
                    map.values().for_each(|value| walk(value, found));
                }
                Value::Array(list) => list.iter().for_each(|value| walk(value, found)),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
            }
        }
        let document = document();
        let mut references = Vec::new();
        walk(&document, &mut references);
        assert!(references.len() > 50);
        for reference in references {
            let pointer = reference.strip_prefix('#').expect("a local reference");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn bodies_say_that_unknown_fields_are_refused() {
        let document = document();
        for name in
            ["NewConnector", "ConnectorPatch", "StartFlow", "FinishFlow", "TokenRequest", "NewKey", "BulkRevoke"]
        {
            assert_eq!(document["components"]["schemas"][name]["additionalProperties"], json!(false), "{name}");
        }
    }
}
