//! What people read: the reference page, the document behind it, and the text of each problem. Rendered here, without script.

mod text;
mod view;

use std::sync::LazyLock;

use askama::Template;
use axum::{
    http::{HeaderValue, header},
    response::{Html, IntoResponse, Response},
};

use crate::{
    extract::PathParam,
    openapi::openapi,
    pages::FailurePage,
    problem::{Problem, ProblemCode, problem_text},
};
use text::{Paragraph, paragraphs};
use view::{SchemaView, SectionView};

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
);
const STYLE: &str = include_str!("../../reference/reference.css");

/// The document, made once.
static DOCUMENT: LazyLock<String> = LazyLock::new(openapi);

/// The page, made once.
static PAGE: LazyLock<Result<String, askama::Error>> = LazyLock::new(|| {
    let document = serde_json::from_str(&DOCUMENT).unwrap_or_default();
    ReferencePage { sections: view::sections(&document), schemas: view::schemas(&document) }.render()
});

#[derive(Template)]
#[template(path = "docs.html")]
struct ReferencePage {
    sections: Vec<SectionView>,
    schemas: Vec<SchemaView>,
}

#[derive(Template)]
#[template(path = "problem.html")]
struct ProblemPage<'a> {
    code: &'a str,
    paragraphs: Vec<Paragraph<'static>>,
}

#[derive(Template)]
#[template(path = "problems.html")]
struct ProblemsPage {
    problems: Vec<(&'static str, &'static str)>,
    pages: Vec<&'static str>,
}

/// The OpenAPI document.
pub(crate) async fn document() -> Response {
    let mut response = DOCUMENT.as_str().into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    response
}

/// The reference page.
pub(crate) async fn page() -> Response {
    match &*PAGE {
        Ok(page) => html(page.clone()),
        Err(error) => Problem::internal(Unrendered(error.to_string())).into_response(),
    }
}

/// The file that the page loads.
pub(crate) async fn file(PathParam(name): PathParam<String>) -> Result<Response, Problem> {
    if name != "reference.css" {
        return Err(Problem::new(ProblemCode::NotFound));
    }
    let mut response = STYLE.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/css; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    Ok(response)
}

/// Every code there is.
pub(crate) async fn problems() -> Result<Response, Problem> {
    let page = ProblemsPage {
        problems: ProblemCode::ALL.map(|code| (code.as_str(), code.title())).to_vec(),
        pages: FailurePage::ALL.map(FailurePage::code).to_vec(),
    };
    page.render().map(html).map_err(Problem::internal)
}

/// What `docs/problems.md` says of a code: where a problem's `type` leads.
pub(crate) async fn problem(PathParam(code): PathParam<String>) -> Result<Response, Problem> {
    let text = problem_text(&code).ok_or_else(|| Problem::new(ProblemCode::NotFound))?;
    let page = ProblemPage { code: &code, paragraphs: paragraphs(text) };
    page.render().map(html).map_err(Problem::internal)
}

#[derive(Debug, thiserror::Error)]
#[error("the reference page cannot be rendered: {0}")]
struct Unrendered(String);

fn html(page: String) -> Response {
    let mut response = Html(page).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_every_operation_and_schema_and_runs_no_script() {
        let page = PAGE.as_ref().expect("rendered");
        let document: serde_json::Value = serde_json::from_str(&DOCUMENT).expect("json");
        for path in document["paths"].as_object().expect("paths").keys() {
            assert!(page.contains(path.as_str()), "{path}");
        }
        for name in document["components"]["schemas"].as_object().expect("schemas").keys() {
            assert!(page.contains(&format!("id=\"schema-{name}\"")), "{name}");
        }
        assert!(!page.contains("<script") && !page.contains("style=") && !page.contains("http://"));
    }

    #[test]
    fn every_link_within_the_page_leads_somewhere() {
        let page = PAGE.as_ref().expect("rendered");
        let links: Vec<_> = page.split("href=\"#").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(links.len() > 40);
        for link in links {
            assert!(page.contains(&format!("id=\"{link}\"")), "{link}");
        }
    }

    #[tokio::test]
    async fn the_list_of_problems_leads_to_every_page() {
        let response = problems().await.expect("a page");
        let body = axum::body::to_bytes(response.into_body(), 100_000).await.expect("a body");
        let page = String::from_utf8(body.to_vec()).expect("text");
        let links: Vec<_> = page.split("href=\"/problems/").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(links.len(), ProblemCode::ALL.len() + FailurePage::ALL.len());
        for code in links {
            assert!(problem_text(code).is_some(), "{code}");
        }
    }

    #[tokio::test]
    async fn a_problem_has_a_page_and_an_unknown_one_has_none() {
        let response = problem(PathParam("reconnect-required".to_owned())).await.expect("a page");
        let body = axum::body::to_bytes(response.into_body(), 100_000).await.expect("a body");
        let page = String::from_utf8(body.to_vec()).expect("text");
        assert!(page.contains("<code>reason</code>") && page.contains("<strong>Cause.</strong>"), "{page}");
        let refused = problem(PathParam("nope".to_owned())).await.expect_err("none");
        assert_eq!(refused.code(), ProblemCode::NotFound);
    }
}
