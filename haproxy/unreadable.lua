-- What a client hears whose first bytes could not be read as an HTTP request: a problem document (RFC 9457), then the end.

local function refuse(status, title, code, detail)
    return function(applet)
        local request_id = applet.sf:uuid()
        local body = string.format(
            '{"type":"about:blank","title":"%s","status":%d,"detail":"%s","code":"%s","request_id":"%s"}',
            title, status, detail, code, request_id
        )
        applet:send(table.concat({
            string.format("HTTP/1.1 %d %s", status, title),
            "Content-Type: application/problem+json",
            "Content-Length: " .. #body,
            "X-Request-ID: " .. request_id,
            "Connection: close",
            "",
            body,
        }, "\r\n"))
    end
end

core.register_service("bad_request", "tcp", refuse(
    400, "Bad Request", "bad_request", "The request is not valid HTTP."
))
core.register_service("request_timeout", "tcp", refuse(
    408, "Request Timeout", "request_timeout", "The request did not arrive in time. Nothing was stored."
))
