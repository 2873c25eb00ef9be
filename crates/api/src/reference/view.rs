//! The OpenAPI document as the reference page shows it.

use serde_json::{Map, Value};

use super::text::{Piece, pieces};

/// A group of operations.
#[derive(Debug)]
pub(super) struct SectionView {
    pub(super) tag: String,
    pub(super) description: String,
    pub(super) operations: Vec<OperationView>,
}

/// One operation.
#[derive(Debug)]
pub(super) struct OperationView {
    pub(super) id: String,
    pub(super) method: String,
    pub(super) path: String,
    pub(super) summary: String,
    pub(super) description: String,
    pub(super) needs_key: bool,
    pub(super) parameters: Vec<FieldView>,
    pub(super) body: Option<TypeView>,
    pub(super) responses: Vec<ResponseView>,
}

/// A field or parameter.
#[derive(Debug)]
pub(super) struct FieldView {
    pub(super) name: String,
    pub(super) place: String,
    pub(super) kind: TypeView,
    pub(super) is_required: bool,
    pub(super) description: String,
}

/// A type in words, with a link to its schema if it has one.
#[derive(Debug, Default)]
pub(super) struct TypeView {
    pub(super) before: String,
    pub(super) schema: Option<String>,
    pub(super) after: String,
}

/// What may be answered.
#[derive(Debug)]
pub(super) struct ResponseView {
    pub(super) status: String,
    pub(super) description: String,
    pub(super) kind: Option<TypeView>,
}

/// A named schema.
#[derive(Debug)]
pub(super) struct SchemaView {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) values: Vec<String>,
    pub(super) fields: Vec<FieldView>,
}

impl SectionView {
    pub(super) fn description(&self) -> Vec<Piece<'_>> {
        pieces(&self.description)
    }
}

impl OperationView {
    pub(super) fn description(&self) -> Vec<Piece<'_>> {
        pieces(&self.description)
    }
}

impl FieldView {
    pub(super) fn description(&self) -> Vec<Piece<'_>> {
        pieces(&self.description)
    }
}

impl ResponseView {
    pub(super) fn description(&self) -> Vec<Piece<'_>> {
        pieces(&self.description)
    }
}

impl SchemaView {
    pub(super) fn description(&self) -> Vec<Piece<'_>> {
        pieces(&self.description)
    }
}

/// The operations, in the order of the document's tags.
pub(super) fn sections(document: &Value) -> Vec<SectionView> {
    let tags = document["tags"].as_array().into_iter().flatten();
    tags.map(|tag| {
        let name = text(&tag["name"]);
        let mut operations: Vec<_> = object(&document["paths"])
            .flat_map(|(path, item)| object(item).map(move |(method, operation)| (path, method, operation)))
            .filter(|(_, _, operation)| operation["tags"][0] == name.as_str())
            .map(|(path, method, operation)| operation_view(document, path, method, operation))
            .collect();
        operations.sort_by(|one, other| (&one.path, rank(&one.method)).cmp(&(&other.path, rank(&other.method))));
        SectionView { tag: name, description: text(&tag["description"]), operations }
    })
    .collect()
}

/// The named schemas, by name.
pub(super) fn schemas(document: &Value) -> Vec<SchemaView> {
    object(&document["components"]["schemas"])
        .map(|(name, schema)| {
            let parts: Vec<&Value> = match schema["allOf"].as_array() {
                Some(parts) => parts.iter().collect(),
                None => vec![schema],
            };
            let mut fields: Vec<FieldView> = Vec::new();
            for part in parts {
                let part = resolved(document, part);
                let required: Vec<&str> =
                    part["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                fields.extend(object(&part["properties"]).map(|(field, kind)| FieldView {
                    name: field.to_owned(),
                    place: String::new(),
                    kind: type_view(kind),
                    is_required: required.contains(&field),
                    description: text(&kind["description"]),
                }));
            }
            let values = schema["enum"].as_array().into_iter().flatten().map(text).collect();
            SchemaView { name: name.to_owned(), description: text(&schema["description"]), values, fields }
        })
        .collect()
}

fn operation_view(document: &Value, path: &str, method: &str, operation: &Value) -> OperationView {
    let parameters = operation["parameters"].as_array().into_iter().flatten().map(|parameter| FieldView {
        name: text(&parameter["name"]),
        place: text(&parameter["in"]),
        kind: type_view(&parameter["schema"]),
        is_required: parameter["required"] == true,
        description: text(&parameter["description"]),
    });
    let responses = object(&operation["responses"]).map(|(status, response)| {
        let response = resolved(document, response);
        ResponseView {
            status: status.to_owned(),
            description: text(&response["description"]),
            kind: content_type_view(response),
        }
    });
    OperationView {
        id: text(&operation["operationId"]),
        method: method.to_uppercase(),
        path: path.to_owned(),
        summary: text(&operation["summary"]),
        description: text(&operation["description"]),
        needs_key: operation["security"].is_array(),
        parameters: parameters.collect(),
        body: content_type_view(&operation["requestBody"]),
        responses: responses.collect(),
    }
}

fn content_type_view(holder: &Value) -> Option<TypeView> {
    let (_, content) = object(&holder["content"]).next()?;
    Some(type_view(&content["schema"]))
}

/// A schema in words.
fn type_view(schema: &Value) -> TypeView {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().unwrap_or_default();
        return TypeView { schema: Some(name.to_owned()), ..TypeView::default() };
    }
    if let Some(choices) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
        let nullable = choices.iter().any(|choice| choice["type"] == "null");
        let mut kind = choices.iter().find(|choice| choice["type"] != "null").map(type_view).unwrap_or_default();
        if nullable {
            kind.after.push_str(" or null");
        }
        return kind;
    }
    let mut names: Vec<&str> = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        other => other.as_str().into_iter().collect(),
    };
    let nullable = names.contains(&"null");
    names.retain(|name| *name != "null");
    let mut kind = match names.first() {
        Some(&"array") => {
            let items = type_view(&schema["items"]);
            TypeView { before: format!("list of {}", items.before), ..items }
        }
        Some(&"object") if schema["additionalProperties"].is_object() => {
            let values = type_view(&schema["additionalProperties"]);
            TypeView { before: format!("map to {}", values.before), ..values }
        }
        Some(&"string") if schema["format"] == "date-time" => plain("time"),
        Some(name) => plain(name),
        None => plain("anything"),
    };
    if nullable {
        kind.after.push_str(" or null");
    }
    kind
}

fn plain(name: &str) -> TypeView {
    TypeView { before: name.to_owned(), ..TypeView::default() }
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

fn rank(method: &str) -> u8 {
    match method {
        "POST" => 0,
        "GET" => 1,
        "PATCH" => 2,
        _ => 3,
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn object(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter).map(|(name, value)| (name.as_str(), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn words(schema: &Value) -> String {
        let kind = type_view(schema);
        format!("{}{}{}", kind.before, kind.schema.unwrap_or_default(), kind.after)
    }

    #[test]
    fn types_are_said_in_words() {
        assert_eq!(words(&json!({ "type": "string" })), "string");
        assert_eq!(words(&json!({ "type": ["string", "null"], "format": "date-time" })), "time or null");
        assert_eq!(words(&json!({ "type": "array", "items": { "$ref": "#/components/schemas/Key" } })), "list of Key");
        assert_eq!(
            words(&json!({ "type": ["array", "null"], "items": { "type": "string" } })),
            "list of string or null"
        );
        assert_eq!(
            words(&json!({ "oneOf": [{ "type": "null" }, { "$ref": "#/components/schemas/Owner" }] })),
            "Owner or null"
        );
        assert_eq!(
            words(&json!({ "type": "object", "additionalProperties": { "type": "integer" } })),
            "map to integer"
        );
        assert_eq!(words(&json!({})), "anything");
    }
}
