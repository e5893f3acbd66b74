# Varnish in front of Ragline: stores answers of public namespaces, drops them by the documents in them.
# Needs Varnish 7 and varnish-modules (xkey, var). Start: varnishd -f /etc/varnish/ragline.vcl -p vcl_path=/etc/varnish …
# What is promised, and why each rule is here: docs/engines/varnish.md.
vcl 4.1;

import std;
import var;
import xkey;

include "site.vcl";

sub vcl_recv {
    if (req.method == "PURGE") {
        if (client.ip !~ purgers) {
            return (synth(403, "Not a purger"));
        }
        if (!req.http.Surrogate-Key || !req.http.Ragline-Namespace || !req.http.Ragline-Visible) {
            return (synth(400, "Name keys, namespace and count"));
        }
        # First the count, then what is stored: an answer that comes between the two is too old already.
        if (std.integer(var.global_get("visible-" + req.http.Ragline-Namespace), 0) < std.integer(req.http.Ragline-Visible, 0)) {
            var.global_set("visible-" + req.http.Ragline-Namespace, req.http.Ragline-Visible);
        }
        set req.http.Ragline-Gone = xkey.purge(req.http.Surrogate-Key);
        return (synth(200, "Purged " + req.http.Ragline-Gone));
    }

    unset req.http.Surrogate-Key;
    unset req.http.Ragline-Namespace;
    unset req.http.Ragline-Visible;

    if (req.method != "GET" && req.method != "HEAD") {
        return (pass);
    }
    # A caller with a key may see more than what is stored. A cookie means nothing to Ragline, but maybe to what stands between.
    if (req.http.Authorization || req.http.Cookie) {
        return (pass);
    }
    if (req.url !~ "^/v1/search\?") {
        return (pass);
    }
    # It asks for what is new.
    if (req.url ~ "[?&]min_sequence=") {
        return (pass);
    }

    # The same question is one address: parameters that Ragline does not know go, spaces are written one way, and order does
    # not count. (Of `legs`, which may stand twice, order does not count either.)
    set req.url = regsuball(req.url, "(?<=[?&])(?!(?:q|namespace|top_k|filters|legs|distinct)=)[^&]*(?:&|$)", "");
    set req.url = regsuball(req.url, "%20", "+");
    set req.url = regsuball(req.url, "\+\++", "+");
    set req.url = regsub(req.url, "[?&]+$", "");
    set req.url = std.querysort(req.url);
    set req.http.Host = regsub(std.tolower(req.http.Host), ":[0-9]+$", "");
    return (hash);
}

sub vcl_backend_fetch {
    # Longer than Ragline's own deadline for a search; within `edge.purge_again_s`.
    set bereq.first_byte_timeout = 20s;
    set bereq.between_bytes_timeout = 5s;
}

sub vcl_backend_response {
    if (bereq.uncacheable) {
        return (deliver);
    }
    if (beresp.status != 200 && beresp.status != 304) {
        set beresp.uncacheable = true;
        set beresp.ttl = 0s;
        set beresp.grace = 0s;
        return (deliver);
    }
    # Only what says so may be stored, and only what can be purged.
    if (beresp.http.Cache-Control !~ "(^|[ ,])s-maxage=[1-9]" || beresp.http.Cache-Control ~ "no-store|private"
        || !beresp.http.Surrogate-Key || beresp.http.Set-Cookie) {
        set beresp.uncacheable = true;
        set beresp.ttl = 10s;
        set beresp.grace = 0s;
        return (deliver);
    }
    # Looked for before a change that is purged already: its reader has it, nobody else does.
    if (std.integer(beresp.http.Ragline-Visible, 0) < std.integer(var.global_get("visible-" + beresp.http.Ragline-Namespace), 0)) {
        set beresp.uncacheable = true;
        set beresp.ttl = 1s;
        set beresp.grace = 0s;
        return (deliver);
    }
    set beresp.http.xkey = beresp.http.Surrogate-Key;
    # While an answer whose time is over is fetched anew, it still serves for so long. What is purged never does.
    set beresp.grace = 10s;
    set beresp.keep = 0s;
}

sub vcl_deliver {
    if (obj.hits > 0) {
        set resp.http.X-Cache = "HIT";
    } else {
        set resp.http.X-Cache = "MISS";
    }
    # Keys are for us. And no cache behind us may keep it: our purges do not reach that.
    if (resp.http.Surrogate-Key) {
        set resp.http.Cache-Control = "public, max-age=0, must-revalidate";
    }
    unset resp.http.Surrogate-Key;
    unset resp.http.xkey;
    unset resp.http.Ragline-Namespace;
    unset resp.http.Ragline-Visible;
    unset resp.http.Via;
    unset resp.http.X-Varnish;
}
