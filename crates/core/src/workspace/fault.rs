//! Failures as they cross a process boundary.

use serde::{Deserialize, Serialize};

use crate::failure::FailureKind;
use crate::hint::{self, Hint};

/// A failure as it crosses a process boundary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// Kind of the failure, for programs.
    pub kind: FailureKind,
    /// Failure and its causes, for people.
    pub message: String,
    /// Action that may help.
    #[serde(default, rename = "action", deserialize_with = "hint::known")]
    pub hint: Option<Hint>,
    /// Whether what is in the way is somebody else's work, which ends by itself.
    #[serde(default)]
    pub momentary: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_another_version_is_read() {
        let earlier = r#"{"kind":"state","message":"no","hint":"`pyro x`","momentary":true}"#;
        let fault =
            Fault { kind: FailureKind::WrongState, message: "no".into(), hint: None, momentary: true };
        assert_eq!(serde_json::from_str::<Fault>(earlier).unwrap(), fault);
        let later = r#"{"kind":"new","message":"no","action":{"new":{"a":1}},"more":[]}"#;
        let fault = Fault { kind: FailureKind::Failed, momentary: false, ..fault };
        assert_eq!(serde_json::from_str::<Fault>(later).unwrap(), fault);
        let fault = Fault { hint: Some(Hint::StartWorkspace), ..fault };
        let text = serde_json::to_string(&fault).unwrap();
        assert_eq!(serde_json::from_str::<Fault>(&text).unwrap(), fault, "{text}");
    }
}
