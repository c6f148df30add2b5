//! Remarks about a start that was no plain restore.

/// A remark about a start that was no plain restore.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// There is no template for it: it boots, and leaves one.
    First,
    /// The template cannot be used, and why: it boots, and leaves a new one.
    Unusable(String),
    /// Another start is making the template; this one waits for it.
    Waiting,
    /// No template can be left behind, and why.
    NotSaved(String),
}

/// As one line of key and value says it.
impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::First => {
                f.write_str("template=building (the first start of its kind boots; later ones do not)")
            }
            Self::Unusable(why) => write!(f, "template=rebuilding (this start boots): {why}"),
            Self::Waiting => f.write_str("template=waiting (another start is making it)"),
            Self::NotSaved(why) => write!(f, "template=none (this start boots): {why}"),
        }
    }
}
