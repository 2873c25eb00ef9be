//! What `docs/problems.md` says of a problem.

/// The document that explains every code.
pub(super) const PROBLEMS: &str = include_str!("../../../../docs/problems.md");

/// A code's entry: the lines between its heading and the next.
pub(crate) fn problem_text(code: &str) -> Option<&'static str> {
    let plain = !code.is_empty() && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let heading = plain.then(|| format!("\n### {code}\n"))?;
    let (_, rest) = PROBLEMS.split_once(&heading)?;
    let end = rest.find("\n#").unwrap_or(rest.len());
    rest.get(..end).map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{pages::FailurePage, problem::ProblemCode};
    use std::collections::BTreeSet;

    fn documented() -> BTreeSet<&'static str> {
        PROBLEMS.lines().filter_map(|line| line.strip_prefix("### ")).collect()
    }

    #[test]
    fn every_code_is_documented_with_cause_and_remedy() {
        let api = ProblemCode::ALL.iter().map(|code| code.as_str());
        let pages = FailurePage::ALL.iter().map(|page| page.code());
        for code in api.chain(pages) {
            let text = problem_text(code).unwrap_or_else(|| panic!("{code} is not in docs/problems.md"));
            assert!(text.contains("**Cause.** ") && text.contains("**Remedy.** "), "{code}: {text}");
        }
    }

    #[test]
    fn every_status_in_the_document_is_the_one_answered() {
        for code in ProblemCode::ALL {
            let text = problem_text(code.as_str()).expect("documented");
            let status = format!("API: {}", code.status().as_u16());
            assert!(text.lines().next().is_some_and(|line| line.contains(&status)), "{}: {text}", code.as_str());
        }
        for page in FailurePage::ALL {
            let text = problem_text(page.code()).expect("documented");
            let status = format!("page: {}", page.status().as_u16());
            assert!(text.lines().next().is_some_and(|line| line.contains(&status)), "{}: {text}", page.code());
        }
    }

    #[test]
    fn nothing_is_documented_that_is_never_answered() {
        let known: BTreeSet<_> = ProblemCode::ALL
            .iter()
            .map(|code| code.as_str())
            .chain(FailurePage::ALL.iter().map(|page| page.code()))
            .collect();
        assert_eq!(documented().difference(&known).collect::<Vec<_>>(), Vec::<&&str>::new());
    }

    #[test]
    fn a_code_that_nobody_knows_has_no_text() {
        for code in ["", "nope", "../secrets", "INTERNAL-ERROR", "a\n### not-found"] {
            assert_eq!(problem_text(code), None, "{code}");
        }
    }
}
