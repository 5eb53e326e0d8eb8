//! The router's table and the description have the same addresses.

use std::collections::{BTreeMap, BTreeSet};

use syn::visit::Visit;
use syn::{Arm, Expr, ExprCall, ExprMatch, Lit, Pat};

use crate::described::{self, row};
use crate::sources::{Sources, literal};

/// Addresses that are answered before the table, with their handlers.
const BEFORE_THE_TABLE: [(&str, &str); 6] = [
    ("/livez", "health::livez"),
    ("/", "pages::answer"),
    ("/admin", "pages::answer"),
    ("/docs", "pages::answer"),
    ("/openapi.json", "pages::answer"),
    ("/assets/{file}", "pages::answer"),
];

/// The handler of each method and path, such as `claims::claim` of `POST /v1/coupons/{}/claims`.
pub fn handlers(sources: &Sources) -> BTreeMap<String, String> {
    let table = table(sources).into_iter().filter_map(|(row, handler)| Some((row, handler?)));
    let before = BEFORE_THE_TABLE.iter().map(|(path, handler)| (row("GET", path), (*handler).to_owned()));
    table.chain(before).collect()
}

/// The rows of the table. A row that only refuses has no handler.
fn table(sources: &Sources) -> Vec<(String, Option<String>)> {
    let mut found = Matches::default();
    found.visit_item_fn(sources.function("http::routes", "route"));
    let [table] = &found.0[..] else { panic!("the table of the router is one `match`") };
    table.arms.iter().map(row_of).collect()
}

#[derive(Default)]
struct Matches(Vec<ExprMatch>);

impl<'a> Visit<'a> for Matches {
    fn visit_expr_match(&mut self, found: &'a ExprMatch) {
        self.0.push(found.clone());
    }
}

fn row_of(arm: &Arm) -> (String, Option<String>) {
    let called = called(&arm.body);
    if ["not_allowed", "nothing_here"].contains(&called.as_str()) {
        return (String::new(), None);
    }
    let Pat::Tuple(pattern) = &arm.pat else { panic!("a row of the router is not understood: {called}") };
    let [Pat::Slice(segments), Pat::Lit(method)] = [&pattern.elems[0], &pattern.elems[1]] else {
        panic!("the row of {called} is not a path and a method")
    };
    let Lit::Str(method) = &method.lit else { panic!("the method of {called} is not text") };
    let segments = segments.elems.iter().map(|segment| match segment {
        Pat::Lit(text) => literal(&text.lit).unwrap(),
        Pat::Ident(_) => "{}".to_owned(),
        _ => panic!("the path of {called} has a segment that is neither text nor a name"),
    });
    let path: String = segments.flat_map(|segment| ["/".to_owned(), segment]).collect();
    assert!(arm.guard.is_none(), "the row of {called} has a condition");
    (format!("{} {path}", method.value()), Some(called))
}

/// The function that an expression calls first, without `boxed`.
fn called(body: &Expr) -> String {
    struct First(Option<String>);
    impl<'a> Visit<'a> for First {
        fn visit_expr_call(&mut self, call: &'a ExprCall) {
            if let Expr::Path(path) = &*call.func {
                let names: Vec<String> = path.path.segments.iter().map(|s| s.ident.to_string()).collect();
                // `ready` wraps the answer of a handler that does not wait.
                if names != ["ready"] {
                    self.0.get_or_insert(names.join("::"));
                }
            }
            syn::visit::visit_expr_call(self, call);
        }
    }
    let mut first = First(None);
    first.visit_expr(body);
    first.0.expect("each row of the router calls a function")
}

#[test]
fn every_row_of_the_router_is_described_and_nothing_else() {
    let sources = Sources::read();
    let rows: BTreeSet<String> = handlers(&sources).into_keys().collect();
    assert!(rows.len() > 30, "only {} rows were read", rows.len());
    let described: BTreeSet<String> = described::operations().into_keys().collect();
    let missing: Vec<_> = rows.difference(&described).collect();
    let invented: Vec<_> = described.difference(&rows).collect();
    assert!(missing.is_empty() && invented.is_empty(), "not described: {missing:?}; no row: {invented:?}");
}

#[test]
fn every_address_before_the_table_is_described() {
    struct Texts(Vec<String>);
    impl<'a> Visit<'a> for Texts {
        fn visit_lit(&mut self, found: &'a Lit) {
            self.0.extend(literal(found).filter(|text| text.starts_with('/')));
        }
    }
    let sources = Sources::read();
    let mut texts = Texts(Vec::new());
    texts.visit_item_fn(sources.function("http::pages", "answer"));
    texts.visit_item_fn(sources.function("http::routes", "answer"));
    assert!(texts.0.len() > 5, "only {:?} were read", texts.0);
    let described: Vec<String> = described::operations().into_keys().collect();
    for text in texts.0 {
        // A condition compares the start or the end of described addresses.
        let mut paths = described.iter().map(|row| row.split_once(' ').unwrap().1);
        let is_known = paths.any(|path| path.starts_with(&text) || path.ends_with(&text));
        assert!(is_known, "{text} is not described");
    }
    for (path, _) in BEFORE_THE_TABLE {
        assert!(described.contains(&row("GET", path)), "{path}");
    }
}
