# What is yours: where the API is, and who may purge. Included by ragline.vcl.

backend ragline {
    .host = "127.0.0.1";
    .port = "8080";
}

# The machines that run `ragline work parse` or `ragline up`. Never a proxy that readers come through.
acl purgers {
    "127.0.0.1";
    "::1";
}
