//! A fault of pyro's own code, as an error that says so.

use std::any::Any;

use tokio::task::JoinError;

/// Something that cannot happen unless pyro is wrong. Never "busy" or "try again": nothing is gained by waiting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a task of pyro {what}: {message}; this is a bug")]
pub struct Bug {
    /// How the task ended, as a verb in the past tense.
    what: &'static str,
    /// The panic's own words.
    message: String,
}

impl Bug {
    /// A task that ended without a result or a panic that could be seen.
    pub fn lost(task: &'static str) -> Self {
        Self { what: "ended without a result", message: task.to_owned() }
    }

    /// The panic that was caught with this payload.
    pub fn of_panic(payload: &(dyn Any + Send)) -> Self {
        let words = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let words = words.or_else(|| payload.downcast_ref::<String>().cloned());
        Self { what: "panicked", message: words.unwrap_or_else(|| "without words".into()) }
    }
}

/// The end of a task that has no result.
impl From<JoinError> for Bug {
    fn from(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(payload) => Self::of_panic(payload.as_ref()),
            Err(error) => Self { what: "was given up", message: error.to_string() },
        }
    }
}

/// Runs `work`, which blocks, on a thread of its own. A panic in it is a [`Bug`], with the panic's words.
///
/// # Errors
/// Those of `work`, and a [`Bug`] when it panics.
pub async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<Bug> + Send + 'static,
{
    #[expect(clippy::disallowed_methods, reason = "the one place where a panic becomes a bug")]
    let task = tokio::task::spawn_blocking(work);
    task.await.map_err(Bug::from)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_a_bug_with_its_own_words() {
        let said = async |work: fn() -> Result<(), Bug>| blocking(work).await.unwrap_err().to_string();
        assert_eq!(
            said(|| panic!("the sky is green")).await,
            "a task of pyro panicked: the sky is green; this is a bug"
        );
        let number = || panic!("{} is no number", "x".repeat(2));
        assert_eq!(said(number).await, "a task of pyro panicked: xx is no number; this is a bug");
        let wordless = || std::panic::panic_any(7_u8);
        assert_eq!(said(wordless).await, "a task of pyro panicked: without words; this is a bug");
        blocking(|| Ok::<_, Bug>(())).await.unwrap();
    }

    #[tokio::test]
    async fn a_task_that_was_given_up_is_no_panic() {
        let task = tokio::spawn(std::future::pending::<()>());
        task.abort();
        let bug = Bug::from(task.await.unwrap_err());
        assert_eq!(bug.what, "was given up");
    }
}
