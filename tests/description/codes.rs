//! Each description has exactly the codes of problems that its handler can give.
//!
//! The codes that a handler can give are read from the sources: those that it names, those of the functions of `http` that
//! it calls, and those into which the errors of other functions are converted (`From<…> for Problem`). A conversion may
//! also have codes for errors that this one function never returns; `NEVER` names them with the reason. The test does not
//! know which line runs, so a code may be described that no request can get; it misses no code of a called function.

use std::collections::{BTreeMap, BTreeSet};

use seckill::http::problem::Code;
use syn::visit::Visit;
use syn::{
    Expr, ExprCall, ExprMethodCall, ExprPath, GenericArgument, Local, Member, Pat, PatIdent, PathArguments,
    ReturnType, Type,
};

use crate::described;
use crate::routes::handlers;
use crate::sources::{Function, Sources, error_type};

/// Codes of a conversion that a handler cannot give.
const NEVER: [(&str, &[Code], &str); 7] = [
    (
        "admin_coupons::create",
        &[Code::UnknownCoupon, Code::PreconditionFailed, Code::TotalTooLow],
        "a creation finds no older version",
    ),
    (
        "admin_coupons::show",
        &[Code::CouponExists, Code::PreconditionFailed, Code::TotalTooLow],
        "a read changes nothing",
    ),
    (
        "admin_coupons::list",
        &[Code::UnknownCoupon, Code::CouponExists, Code::PreconditionFailed, Code::TotalTooLow],
        "a list names no coupon",
    ),
    ("admin_coupons::edit", &[Code::CouponExists], "an edit creates nothing"),
    (
        "order::confirm",
        &[Code::OrderConfirmed, Code::OrderReserved, Code::TotalTooLow],
        "a confirmed order is the aim, and a reserved one that stays so has expired",
    ),
    (
        "order::cancel",
        &[Code::OrderCancelled, Code::OrderReserved, Code::TotalTooLow],
        "a cancelled order is the aim, and a reserved one that stays so has expired",
    ),
    ("order::revoke", &[Code::OrderConfirmed], "the statement ends each confirmed order"),
];

/// What is done for each request that the API answers, before and around its handler.
const AROUND: [&str; 3] = ["http::head::check", "http::Slot::api", "http::detached"];

/// The codes of each function, and what it calls.
struct Graph {
    codes: BTreeMap<String, BTreeSet<Code>>,
    calls: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn of(sources: &Sources) -> Self {
        let mut graph = Self { codes: BTreeMap::new(), calls: BTreeMap::new() };
        for function in sources.functions.iter().filter(|function| is_http(function)) {
            let mut bound = Bound(BTreeSet::new());
            bound.visit_signature(&function.signature);
            bound.visit_block(&function.body);
            let (codes, calls, locals) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::new());
            let mut uses = Uses { sources, function, bound: bound.0, codes, calls, locals };
            uses.visit_block(&function.body);
            if let Some(error) =
                function.of.as_deref().and_then(|of| of.strip_prefix("From<")?.strip_suffix('>'))
            {
                uses.calls.extend(
                    inner_errors(sources, error).into_iter().map(|error| format!("From<{error}>::from")),
                );
            }
            let name = name(function);
            graph.codes.entry(name.clone()).or_default().extend(uses.codes);
            graph.calls.entry(name).or_default().extend(uses.calls);
        }
        graph
    }

    fn reachable(&self, start: &str) -> BTreeSet<Code> {
        let (mut seen, mut open, mut codes) = (BTreeSet::new(), vec![start.to_owned()], BTreeSet::new());
        while let Some(name) = open.pop() {
            codes.extend(self.codes.get(&name).into_iter().flatten());
            let next = self.calls.get(&name).into_iter().flatten();
            open.extend(next.filter(|next| seen.insert((*next).clone())).cloned());
        }
        codes
    }
}

fn is_http(function: &Function) -> bool {
    function.module == "http" || function.module.starts_with("http::")
}

/// `http::claims::claim` of a function, `Auth::user` of a method; a conversion is a method `from`.
fn name(function: &Function) -> String {
    match &function.of {
        Some(of) if of == "Slot" => format!("http::{of}::{}", function.signature.ident),
        Some(of) => format!("{of}::{}", function.signature.ident),
        None => format!("{}::{}", function.module, function.signature.ident),
    }
}

/// The errors inside an error, on two levels.
fn inner_errors(sources: &Sources, error: &str) -> BTreeSet<String> {
    let inner = |error: &str| sources.variants.get(error).cloned().unwrap_or_default();
    let first = inner(error);
    let second = first.iter().flat_map(|error| inner(error)).collect::<Vec<_>>();
    first.into_iter().chain(second).collect()
}

/// The struct in a return type such as `Result<Arc<PartitionFunctions>, StoreError>`.
fn returned_struct(sources: &Sources, output: &ReturnType) -> Option<String> {
    let ReturnType::Type(_, returned) = output else { return None };
    let mut returned = &**returned;
    loop {
        let Type::Path(path) = returned else { return None };
        let last = path.path.segments.last()?;
        let name = last.ident.to_string();
        if sources.fields.contains_key(&name) {
            return Some(name);
        }
        let PathArguments::AngleBracketed(arguments) = &last.arguments else { return None };
        let GenericArgument::Type(inner) = arguments.args.first()? else { return None };
        returned = inner;
    }
}

/// The variables of a function.
struct Bound(BTreeSet<String>);

impl<'a> Visit<'a> for Bound {
    fn visit_pat_ident(&mut self, pattern: &'a PatIdent) {
        self.0.insert(pattern.ident.to_string());
        syn::visit::visit_pat_ident(self, pattern);
    }
}

struct Uses<'a> {
    sources: &'a Sources,
    function: &'a Function,
    /// A name of one of these is a function only where it is called.
    bound: BTreeSet<String>,
    codes: BTreeSet<Code>,
    calls: BTreeSet<String>,
    /// The types of local variables that are parts of the API.
    locals: BTreeMap<String, String>,
}

impl Uses<'_> {
    /// A call of a function outside `http`: its error is converted.
    fn converts(&mut self, outside: &Function) {
        self.calls.extend(error_type(&outside.signature).map(|error| format!("From<{error}>::from")));
    }

    /// The type of an expression such as `api.coupons`.
    fn part_of_api(&self, expression: &Expr) -> Option<String> {
        match expression {
            Expr::Field(field) => {
                let Member::Named(name) = &field.member else { return None };
                let of = match &*field.base {
                    Expr::Path(base) if base.path.is_ident("api") => "Api".to_owned(),
                    base => self.part_of_api(base)?,
                };
                self.sources.fields.get(&of)?.get(&name.to_string()).cloned()
            }
            Expr::Path(path) => self.locals.get(&path.path.get_ident()?.to_string()).cloned(),
            Expr::MethodCall(call) if call.method == "clone" => self.part_of_api(&call.receiver),
            Expr::MethodCall(call) => {
                let of = self.part_of_api(&call.receiver)?;
                let method = self.sources.functions.iter().find(|function| {
                    function.of.as_ref() == Some(&of) && function.signature.ident == call.method
                })?;
                returned_struct(self.sources, &method.signature.output)
            }
            Expr::Await(awaited) => self.part_of_api(&awaited.base),
            Expr::Try(tried) => self.part_of_api(&tried.expr),
            Expr::Reference(reference) => self.part_of_api(&reference.expr),
            _ => None,
        }
    }
}

impl Uses<'_> {
    fn names(&mut self, path: &ExprPath) {
        let names: Vec<String> = path.path.segments.iter().map(|s| s.ident.to_string()).collect();
        if let [.., of, code] = &names[..]
            && of == "Code"
        {
            let found = Code::ALL.iter().find(|known| format!("{known:?}") == *code);
            self.codes.insert(*found.unwrap_or_else(|| panic!("no code {code}")));
            return;
        }
        let of_self =
            self.function.of.as_deref().map(|of| if of.starts_with("From<") { "Problem" } else { of });
        let names = match (&names[..], of_self) {
            ([first, rest @ ..], Some(of)) if first == "Self" => [&[of.to_owned()], rest].concat(),
            _ => names,
        };
        let resolved = self.sources.resolve(&self.function.module, &names);
        let method = names[names.len().saturating_sub(2)..].join("::");
        for function in &self.sources.functions {
            let is_meant = match &function.of {
                Some(of) => format!("{of}::{}", function.signature.ident) == method,
                None => format!("{}::{}", function.module, function.signature.ident) == resolved,
            };
            if is_meant && is_http(function) {
                self.calls.insert(name(function));
            } else if is_meant {
                self.converts(function);
            }
        }
    }
}

impl<'a> Visit<'a> for Uses<'_> {
    fn visit_expr_path(&mut self, path: &'a ExprPath) {
        if path.path.get_ident().is_none_or(|name| !self.bound.contains(&name.to_string())) {
            self.names(path);
        }
    }

    fn visit_expr_call(&mut self, call: &'a ExprCall) {
        if let Expr::Path(path) = &*call.func {
            self.names(path);
        }
        syn::visit::visit_expr_call(self, call);
    }

    fn visit_local(&mut self, local: &'a Local) {
        if let (Pat::Ident(variable), Some(init)) = (&local.pat, &local.init)
            && let Some(of) = self.part_of_api(&init.expr)
        {
            self.locals.insert(variable.ident.to_string(), of);
        }
        syn::visit::visit_local(self, local);
    }

    fn visit_expr_method_call(&mut self, call: &'a ExprMethodCall) {
        let of = self.part_of_api(&call.receiver);
        let functions = &self.sources.functions;
        let methods = functions.iter().filter(|function| call.method == function.signature.ident);
        for method in methods {
            let is_meant = match &of {
                Some(of) => method.of.as_ref() == Some(of),
                None => method.of.is_some() && is_http(method),
            };
            if is_meant && is_http(method) {
                self.calls.insert(name(method));
            } else if is_meant {
                self.converts(method);
            }
        }
        syn::visit::visit_expr_method_call(self, call);
    }
}

#[test]
fn each_description_has_the_codes_that_its_handler_can_give() {
    let sources = Sources::read();
    let graph = Graph::of(&sources);
    for around in AROUND {
        assert!(!graph.reachable(around).is_empty(), "{around} gives no code");
    }
    let described = described::operations();
    let mut wrong = Vec::new();
    for (row, handler) in handlers(&sources) {
        let of_api = !handler.starts_with("pages::") && handler != "health::livez";
        let around = if of_api { &AROUND[..] } else { &AROUND[..1] };
        let mut codes = graph.reachable(&format!("http::{handler}"));
        codes.extend(around.iter().flat_map(|around| graph.reachable(around)));
        for (of, never, why) in NEVER {
            if of == handler {
                let useless = never.iter().find(|code| !codes.remove(code));
                assert_eq!(useless, None, "{handler} could not give it anyway ({why})");
            }
        }
        // The description says it once for all addresses.
        codes.remove(&Code::MethodNotAllowed);
        let codes: BTreeSet<String> = codes.into_iter().map(|code| code.word().to_owned()).collect();
        if row.ends_with("/assets/{}") || !handler.starts_with("pages::") {
            let described = &described[&row];
            wrong.extend(codes.difference(described).map(|code| format!("{row} does not describe {code}")));
            wrong.extend(
                described
                    .difference(&codes)
                    .map(|code| format!("{row} describes {code}, which {handler} cannot give")),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
