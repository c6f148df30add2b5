//! A tool: its name, the words that a model chooses it by, what goes in, what comes out, and the function that does it.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use rmcp::model::{JsonObject, Tool as Shown, ToolAnnotations};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::{JsonSchema, Schema};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::call::Call;
use super::failure::Failure;
use super::host::Host;
use super::order::{Place, Uses};

/// Effect of a tool, for clients that ask a person first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Changes nothing.
    Reads,
    /// Adds something, and again at every call.
    Adds,
    /// Sets something to what is asked for: twice is the same as once.
    Sets,
    /// May undo or remove what was there.
    Destroys,
}

type Run = dyn Fn(Arc<Host>, JsonObject, Call) -> BoxFuture<'static, Result<Value, Failure>> + Send + Sync;

/// Tool of the server.
pub struct Tool {
    shown: Shown,
    /// Place of the tool's calls among others of the same workspace; `None` if they act on no workspace.
    pub place: Option<Place>,
    run: Box<Run>,
}

impl Tool {
    /// Tool whose calls `act` answers.
    pub fn new<I, O, F, R>(
        name: &'static str,
        about: &'static str,
        effect: Effect,
        place: Option<Place>,
        act: F,
    ) -> Self
    where
        I: DeserializeOwned + JsonSchema + Send + 'static,
        O: Serialize + JsonSchema + 'static,
        F: Fn(Arc<Host>, I, Call) -> R + Send + Sync + Clone + 'static,
        R: Future<Output = Result<O, Failure>> + Send + 'static,
    {
        let mut shown = Shown::new(name, about, input_schema::<I>());
        shown.output_schema = Some(Arc::new(output_schema::<O>()));
        shown.annotations = Some(annotations(effect));
        let run = move |host: Arc<Host>, arguments: JsonObject, call: Call| {
            let act = act.clone();
            async move {
                let output = act(host, arguments_of(arguments)?, call).await?;
                serde_json::to_value(output).map_err(|error| {
                    Failure::invalid(format!("the result cannot be told: {error}"), "report this")
                })
            }
            .boxed()
        };
        Self { shown, place, run: Box::new(run) }
    }

    /// Name by which clients call the tool.
    pub fn name(&self) -> &str {
        &self.shown.name
    }

    /// As clients see it.
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// What a call of the tool has to do with workspaces.
    pub fn uses<'a>(&self, arguments: &'a JsonObject) -> Uses<'a> {
        let word = |name: &str| arguments.get(name).and_then(Value::as_str);
        let acts_on = word("workspace_id");
        Uses { workspace: acts_on.or_else(|| word("fork_of")), gives: word("name"), makes: acts_on.is_none() }
    }

    /// Calls the tool.
    pub fn call(
        &self,
        host: Arc<Host>,
        arguments: JsonObject,
        call: Call,
    ) -> BoxFuture<'static, Result<Value, Failure>> {
        (self.run)(host, arguments, call)
    }
}

/// The arguments, or which of them is wrong.
fn arguments_of<I: DeserializeOwned>(arguments: JsonObject) -> Result<I, Failure> {
    serde_path_to_error::deserialize(Value::Object(arguments)).map_err(|error| {
        let at = match error.path().to_string() {
            path if path == "." => String::new(),
            path => format!("{path}: "),
        };
        Failure::invalid(format!("{at}{}", error.inner()), "call it again as its input schema says")
    })
}

fn annotations(effect: Effect) -> ToolAnnotations {
    let shown = ToolAnnotations::new().open_world(false);
    match effect {
        Effect::Reads => shown.read_only(true),
        Effect::Adds => shown.destructive(false),
        Effect::Sets => shown.destructive(false).idempotent(true),
        Effect::Destroys => shown.destructive(true),
    }
}

fn input_schema<I: JsonSchema>() -> JsonObject {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    schema(settings.into_generator().into_root_schema_for::<I>(), true)
}

fn output_schema<O: JsonSchema>() -> JsonObject {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let generator: SchemaGenerator = settings.for_serialize().into_generator();
    schema(generator.into_root_schema_for::<O>(), false)
}

/// A schema without what a model has no use for: every byte of it is in every conversation.
fn schema(schema: Schema, words: bool) -> JsonObject {
    let mut value = schema.to_value();
    slim(&mut value, words);
    match value {
        Value::Object(object) => object,
        _ => JsonObject::new(),
    }
}

fn slim(value: &mut Value, words: bool) {
    let Value::Object(schema) = value else { return };
    for key in ["$schema", "title", "format"] {
        schema.remove(key);
    }
    if schema.get("minimum") == Some(&Value::from(0)) && !schema.contains_key("maximum") {
        schema.remove("minimum");
    }
    if !words {
        for key in ["description", "minimum", "maximum", "default", "required"] {
            schema.remove(key);
        }
    }
    if let Some(Value::String(words)) = schema.get_mut("description") {
        *words = words.replace('\n', " ");
    }
    for key in ["properties", "$defs"] {
        if let Some(Value::Object(each)) = schema.get_mut(key) {
            each.values_mut().for_each(|value| slim(value, words));
        }
    }
    for key in ["items", "additionalProperties"] {
        if let Some(value) = schema.get_mut(key) {
            slim(value, words);
        }
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(each)) = schema.get_mut(key) {
            each.iter_mut().for_each(|value| slim(value, words));
        }
    }
    // What is one of several words is one of them without any description.
    if let Some(Value::Array(each)) = schema.get("oneOf")
        && let Some(words) = each.iter().map(|one| one.get("const").cloned()).collect::<Option<Vec<_>>>()
    {
        schema.remove("oneOf");
        schema.insert("enum".into(), words.into());
    }
}
