//! Merging into TOML.

use serde_json::Value as Json;
use toml_edit::{Array, DocumentMut, Item, Table, TableLike, Value};

use super::Unmerged;
use super::client::Entry;

/// The text with `name` in `section`. It is `old` itself when all of it is there already.
pub fn merge(old: &str, section: &str, name: &str, entry: &Entry) -> Result<String, Unmerged> {
    let mut document: DocumentMut = old.parse().map_err(|error| unreadable(old, &error))?;
    let mut implicit = Table::new();
    // No header for what only holds tables.
    implicit.set_implicit(true);
    let servers = document.entry(section).or_insert(Item::Table(implicit));
    let servers = like(servers, section)?;
    let path = format!("{section}.{name}");
    let server = servers.entry(name).or_insert_with(|| Item::Table(Table::new()));
    let server = like(server, &path)?;
    if let Some(other) = entry.foreign.iter().find(|key| server.contains_key(key)) {
        return Err(Unmerged::Other { what: format!("{path}.{other}") });
    }
    let mut changed = false;
    for (key, value) in &entry.set {
        let value = input(value);
        match server.get_mut(key).and_then(Item::as_value_mut) {
            Some(there) if same(there, &value) => {}
            Some(there) => {
                let decor = there.decor().clone();
                *there = value;
                *there.decor_mut() = decor;
                changed = true;
            }
            None => {
                server.insert(key, Item::Value(value));
                changed = true;
            }
        }
    }
    for (key, value) in &entry.default {
        if !server.contains_key(key) {
            server.insert(key, Item::Value(input(value)));
            changed = true;
        }
    }
    if !changed {
        return Ok(old.to_owned());
    }
    let new = document.to_string();
    // The editor knows only one end of a line.
    let windows = old.contains("\r\n") && !old.replace("\r\n", "").contains('\n');
    Ok(if windows { new.replace('\n', "\r\n") } else { new })
}

/// A table, or one in a line.
fn like<'a>(item: &'a mut Item, path: &str) -> Result<&'a mut dyn TableLike, Unmerged> {
    item.as_table_like_mut().ok_or_else(|| Unmerged::Odd { what: path.to_owned(), expected: "table" })
}

/// Whether two values mean the same, however they are written.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::String(one), Value::String(other)) => one.value() == other.value(),
        (Value::Integer(one), Value::Integer(other)) => one.value() == other.value(),
        (Value::Boolean(one), Value::Boolean(other)) => one.value() == other.value(),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        _ => false,
    }
}

fn input(value: &Json) -> Value {
    match value {
        Json::Bool(value) => (*value).into(),
        Json::Number(value) => value.as_i64().unwrap_or_default().into(),
        Json::String(value) => value.as_str().into(),
        Json::Array(values) => Value::Array(values.iter().map(input).collect::<Array>()),
        // TOML has no null, and no entry has an object.
        Json::Null | Json::Object(_) => Value::from(""),
    }
}

fn unreadable(text: &str, error: &toml_edit::TomlError) -> Unmerged {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    Unmerged::Unreadable { line, column, why: error.message().to_owned() }
}
