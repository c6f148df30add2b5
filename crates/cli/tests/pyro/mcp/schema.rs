//! What tools promise of their results, and whether they keep it.

use std::collections::BTreeMap;
use std::sync::Mutex;

use jsonschema::Validator;
use serde_json::Value;

/// The closed set.
const KINDS: [&str; 11] = [
    "invalid_argument",
    "not_found",
    "conflict",
    "wrong_state",
    "not_allowed",
    "too_large",
    "no_space",
    "rejected",
    "guest_failed",
    "unavailable",
    "failed",
];

/// The output schemas of a server's tools.
#[derive(Default)]
pub struct Schemas {
    by_tool: BTreeMap<String, Validator>,
    tally: Mutex<BTreeMap<String, (usize, usize)>>,
}

impl Schemas {
    /// Those of `tools/list`.
    pub fn of(tools: &Value) -> Self {
        let each = tools.as_array().unwrap().iter().map(|tool| {
            let mut schema = tool["outputSchema"].clone();
            close(&mut schema);
            let validator = jsonschema::options().build(&schema).unwrap();
            (tool["name"].as_str().unwrap().to_owned(), validator)
        });
        Self { by_tool: each.collect(), tally: Mutex::default() }
    }

    /// A tool's result: what it promised, or a failure of the closed set.
    pub fn outcome(&self, tool: &str, result: &Value) -> Result<Value, Value> {
        let content = result["content"].as_array().unwrap();
        assert_eq!(content.len(), 1, "{tool}: {result}");
        assert_eq!(content[0]["type"], "text", "{tool}: {result}");
        let text: Value = serde_json::from_str(content[0]["text"].as_str().unwrap()).unwrap();
        let mut tally = self.tally.lock().unwrap();
        let (good, bad) = tally.entry(tool.to_owned()).or_default();
        if result["isError"] == Value::Bool(true) {
            *bad += 1;
            assert!(KINDS.contains(&text["kind"].as_str().unwrap()), "{tool}: {text}");
            assert!(!text["error"].as_str().unwrap().is_empty(), "{tool}: {text}");
            assert!(text.get("next").is_none_or(|next| !next.as_str().unwrap().is_empty()), "{tool}: {text}");
            assert!(
                !text.to_string().contains("pyro workspace "),
                "{tool} speaks of the command line: {text}"
            );
            return Err(text);
        }
        *good += 1;
        let content = &result["structuredContent"];
        assert_eq!(&text, content, "{tool}");
        let validator = self.by_tool.get(tool).unwrap_or_else(|| panic!("{tool} has no schema"));
        let wrong: Vec<String> = validator
            .iter_errors(content)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(wrong.is_empty(), "{tool}: {wrong:?}\n{content}");
        Ok(content.clone())
    }

    pub fn tally(&self) -> BTreeMap<String, (usize, usize)> {
        self.tally.lock().unwrap().clone()
    }
}

/// Lets no field pass that the schema does not name, so that a schema that names none proves nothing.
fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if fields.contains_key("properties") && !fields.contains_key("additionalProperties") {
                fields.insert("additionalProperties".into(), Value::Bool(false));
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}
