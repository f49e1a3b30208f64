// Jaeger v2.13.0. Its v2 tags are no valid versions of the module path, but v1.76.0 is the same commit. It has a replace
// directive, so `go install` refuses it; this wrapper module repeats the directive. go.sum is Jaeger's own: without it
// the build cannot verify.
module example.com/jaegerwrap

go 1.24.6

require github.com/jaegertracing/jaeger v1.76.0

replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
