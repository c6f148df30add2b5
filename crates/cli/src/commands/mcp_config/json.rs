//! Merging into JSON, with comments or without.

use jsonc_parser::ParseOptions;
use jsonc_parser::cst::{CstInputValue, CstObject, CstRootNode};
use serde_json::Value;

use super::Unmerged;
use super::client::Entry;

/// The text with `name` in `section`. It is `old` itself when all of it is there already.
pub fn merge(old: &str, section: &str, name: &str, entry: &Entry) -> Result<String, Unmerged> {
    let root = CstRootNode::parse(old, &STRICT).map_err(|error| Unmerged::Unreadable {
        line: error.line_display(),
        column: error.column_display(),
        why: error.kind().to_string(),
    })?;
    let object = root
        .object_value_or_create()
        .ok_or_else(|| Unmerged::Odd { what: "the whole of it".into(), expected: "object" })?;
    let servers = within(&object, section, section)?;
    let path = format!("{section}.{name}");
    let server = within(&servers, name, &path)?;
    if let Some(other) = entry.foreign.iter().find(|key| server.get(key).is_some()) {
        return Err(Unmerged::Other { what: format!("{path}.{other}") });
    }
    for (key, value) in &entry.set {
        once(&server, key, &path)?;
        match server.get(key) {
            Some(there) if there.to_serde_value().as_ref() == Some(value) => {}
            Some(there) => there.set_value(input(value)),
            None => drop(server.append(key, input(value))),
        }
    }
    for (key, value) in &entry.default {
        if server.get(key).is_none() {
            server.append(key, input(value));
        }
    }
    Ok(root.to_string())
}

/// The object called `name`, made where there is none.
fn within(object: &CstObject, name: &str, path: &str) -> Result<CstObject, Unmerged> {
    once(object, name, path)?;
    object
        .object_value_or_create(name)
        .ok_or_else(|| Unmerged::Odd { what: path.to_owned(), expected: "object" })
}

/// Of two with one name clients take the last, and people see the first.
fn once(object: &CstObject, name: &str, path: &str) -> Result<(), Unmerged> {
    let same =
        object.properties().into_iter().filter(|property| property.decoded_name().as_deref() == Some(name));
    if same.count() > 1 { Err(Unmerged::Twice { what: path.to_owned() }) } else { Ok(()) }
}

fn input(value: &Value) -> CstInputValue {
    match value {
        Value::Null => CstInputValue::Null,
        Value::Bool(value) => CstInputValue::Bool(*value),
        Value::Number(value) => CstInputValue::Number(value.to_string()),
        Value::String(value) => CstInputValue::String(value.clone()),
        Value::Array(values) => CstInputValue::Array(values.iter().map(input).collect()),
        Value::Object(map) => {
            CstInputValue::Object(map.iter().map(|(key, value)| (key.clone(), input(value))).collect())
        }
    }
}

/// JSON with comments and trailing commas, which editors write; nothing else that is not JSON.
const STRICT: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_trailing_commas: true,
    allow_loose_object_property_names: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};
