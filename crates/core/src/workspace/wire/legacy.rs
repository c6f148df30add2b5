//! Calls to a keeper of the generation before: to stop and to go. Its answer is only read for its failure.

use serde::{Deserialize, Serialize};

use super::OLDEST_TO_STOP;

/// A call to a keeper of generation 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegacyCall {
    /// End the guest.
    Stop,
    /// End everything and remove it.
    Delete,
    /// Exit, so that another keeper can start the stopped workspace.
    Retire,
}

#[derive(Serialize)]
struct LegacyRequest {
    generation: u32,
    ask: LegacyAsk,
}

#[derive(Serialize)]
struct LegacyAsk {
    call: &'static str,
}

/// The last message of a keeper of generation 3; what it is beyond a failure is of no use here.
#[derive(Deserialize)]
pub struct LegacyAnswer {
    answer: String,
    fault: Option<LegacyFault>,
}

#[derive(Deserialize)]
struct LegacyFault {
    message: String,
}

impl LegacyCall {
    /// The request as such a keeper reads it.
    pub fn request(self) -> impl Serialize {
        let call = match self {
            Self::Stop => "stop",
            Self::Delete => "delete",
            Self::Retire => "retire",
        };
        LegacyRequest { generation: OLDEST_TO_STOP, ask: LegacyAsk { call } }
    }
}

impl LegacyAnswer {
    /// Why the call failed, if it did.
    pub fn failure(self) -> Option<String> {
        (self.answer == "failed")
            .then(|| self.fault.map_or_else(|| "it does not say why".into(), |fault| fault.message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keeper_of_the_generation_before_reads_it() {
        let text = serde_json::to_string(&LegacyCall::Stop.request()).unwrap();
        assert_eq!(text, r#"{"generation":3,"ask":{"call":"stop"}}"#);
        let failed =
            r#"{"answer":"failed","fault":{"kind":"state","message":"no","hint":null,"momentary":true}}"#;
        let failure = |text| serde_json::from_str::<LegacyAnswer>(text).unwrap().failure();
        assert_eq!(failure(failed).as_deref(), Some("no"));
        assert_eq!(failure(r#"{"answer":"done"}"#), None);
        assert_eq!(failure(r#"{"answer":"status","status":{"workspace_id":"0123456789ab"}}"#), None);
    }
}
